"""Every file of conf/model: parameters of the model built on the meta device, as counted from its configuration, and as
published."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from dist_plm.config.decode import decode
from dist_plm.models.build import whole_shard_specs
from dist_plm.spec.derived import derive
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.families.bert import BertConfig
from dist_plm.spec.families.electra import generator_of
from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.flops import num_parameters
from dist_plm.spec.objectives import objectives_of
from dist_plm.spec.schema import PretrainConfig
from tests.ranks.training import TINY, VOCAB

FILES = sorted(file for file in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml") if file.stem != "from_hf")

#: What Hugging Face counts for the released models: BertForPreTraining, RobertaForMaskedLM, GPT2LMHeadModel,
#: LlamaForCausalLM, T5ForConditionalGeneration.
PUBLISHED = {
    "bert_base": 110_106_428,
    "bert_large": 336_226_108,
    "roberta_base": 124_697_433,
    "roberta_large": 355_412_057,
    "gpt2_small": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_v1_1_small": 76_961_152,
    "t5_v1_1_base": 247_577_856,
    "t5_v1_1_large": 783_150_080,
    "t5_v1_1_xl": 2_849_757_184,
    "t5_v1_1_xxl": 11_135_332_352,
}
#: Millions, as the papers round them.
ROUNDED = {
    "bert_base": 110,
    "roberta_base": 125,
    "roberta_large": 355,
    "gpt3_175b": 174_600,
    "transformer_base": 63,
    "transformer_big": 214,
    "t5_11b": 11_307,
}
#: ElectraForPreTraining, the discriminator alone.
DISCRIMINATORS = {"electra_small": 13_549_057, "electra_base": 109_483_009, "electra_large": 335_142_913}


def config_of(path: Path) -> PretrainConfig:
    model = {**yaml.safe_load(path.read_text()), "vocab_multiple": 1}
    objective = {"name": {"bert": "mlm_nsp"}.get(model["family"], objectives_of(FAMILIES[model["family"]])[0])}
    config = decode(PretrainConfig, {**TINY, "model": model, "objective": objective})
    return derive(config, world_size=1, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def counts():
    """Numbers of each model by logical tensor."""
    pieces = {
        path.stem: [p for shard_spec in whole_shard_specs(config_of(path).model) for p in shard_spec.shards]
        for path in FILES
    }
    return {name: {shard.name: shard.numel for shard in of_model} for name, of_model in pieces.items()}


def test_models_have_as_many_parameters_as_their_configuration_tells(counts):
    for path in FILES:
        assert sum(counts[path.stem].values()) == num_parameters(config_of(path).model), path.stem


def test_the_table_of_tensors_is_the_networks(counts):
    for path in FILES:
        assert {one.name: one.numel for one in tensors_of(config_of(path).model)} == counts[path.stem], path.stem


def test_models_have_the_published_number_of_parameters(counts):
    assert {name: sum(counts[name].values()) for name in PUBLISHED} == PUBLISHED


def test_models_have_the_size_that_papers_tell(counts):
    for name, millions in ROUNDED.items():
        assert sum(counts[name].values()) / 1e6 == pytest.approx(millions, rel=0.005), name


@pytest.mark.parametrize(("name", "published"), DISCRIMINATORS.items())
def test_discriminators_have_the_published_number_of_parameters(counts, name, published):
    inside = ("embedding.", "discriminator.", "detector.")
    assert sum(n for key, n in counts[name].items() if key.startswith(inside)) == published


def test_a_generator_costs_what_its_network_does(counts):
    model = config_of(FILES[[path.stem for path in FILES].index("electra_base")]).model
    generator = BertConfig(
        layers=12,
        hidden=256,
        heads=4,
        kv_heads=4,
        head_size=64,
        ffn=1024,
        vocab_size=9,
        max_positions=512,
        activation="gelu",
    )
    sizes = ("layers", "hidden", "heads", "kv_heads", "head_size", "ffn", "activation", "bias", "norm")
    assert all(getattr(generator, name) == getattr(generator_of(model), name) for name in sizes)
    layers = sum(n for key, n in counts["electra_base"].items() if key.startswith("generator.layers"))
    shallower = dataclasses.replace(generator, layers=generator.layers - 1)
    assert layers == generator.layers * (num_parameters(generator) - num_parameters(shallower))

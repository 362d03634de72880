"""Our models with the heads of tasks and the weights of random Hugging Face ones: the same logits, losses and gradients."""

import functools

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from dist_plm.distributed.groups import build_groups
from tests.parts import model_of
from tests.ranks.labelled import CHOICES, TASKS, configured, labelled_batch
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_hf_parity import ELECTRA as ELECTRA_PAIR
from tests.ranks.test_hf_parity import disturb, load, weights_of
from tests.ranks.times import LONG
from tests.ranks.training import VOCAB, grid_of, pieces_of
from tests.reference.hf import BERT_SIZES, CASES, attended

pytestmark = pytest.mark.ranks

SAMPLES = np.arange(6)
HEADS = {
    "classify": "SequenceClassification",
    "regress": "SequenceClassification",
    "labels": "SequenceClassification",
    "choice": "MultipleChoice",
    "tag": "TokenClassification",
    "span": "QuestionAnswering",
}
ROBERTA_SIZES = {**BERT_SIZES, "max_position_embeddings": 34, "pad_token_id": 1, "layer_norm_eps": 1e-5}
#: Settings of ours, the kind of Hugging Face's class, and its configuration.
FAMILIES = {
    "bert": (
        {**CASES["bert_mlm"].changes},
        "Bert",
        lambda **more: transformers.BertConfig(**BERT_SIZES, **more),
    ),
    "roberta": (
        CASES["roberta"].changes,
        "Roberta",
        lambda **more: transformers.RobertaConfig(**ROBERTA_SIZES, type_vocab_size=1, **more),
    ),
    "electra": (
        ELECTRA_PAIR,
        "Electra",
        lambda **more: transformers.ElectraConfig(**BERT_SIZES, embedding_size=48, **more),
    ),
    "gpt": (
        {},
        "GPT2",
        lambda **more: transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=32, n_embd=64, n_layer=4, n_head=4, pad_token_id=0, **more
        ),
    ),
    "llama": (
        CASES["llama"].changes,
        "Llama",
        lambda **more: transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            pad_token_id=0,
            **more,
        ),
    ),
}
CELLS = [
    (family, task)
    for family in FAMILIES
    for task in TASKS
    if family not in ("gpt", "llama") or task in ("classify", "regress", "labels")
]
QUICK = [
    ("bert", "classify"),
    ("bert", "tag"),
    ("bert", "span"),
    ("roberta", "regress"),
    ("roberta", "choice"),
    ("electra", "labels"),
    ("electra", "choice"),
    ("gpt", "classify"),
    ("llama", "labels"),
]


def hf_model(family: str, task: str) -> nn.Module:
    _, kind, config = FAMILIES[family]
    torch.manual_seed(5)
    labels = {} if task in ("choice", "span") else {"num_labels": TASKS[task].num_labels}
    model = getattr(transformers, f"{kind}For{HEADS[task]}")(config(**labels)).eval()
    disturb(model)
    return model


def inputs_of(family: str, task: str, batch: dict) -> dict:
    inputs = {"input_ids": batch["tokens"], "attention_mask": attended(batch)}
    if "segments" in batch and family != "roberta":  # whose tokenizers tell none
        inputs["token_type_ids"] = batch["segments"]
    if family == "roberta":  # which would count positions from where a token is not its padding
        inputs["position_ids"] = torch.arange(2, 2 + batch["tokens"].shape[1]).expand_as(batch["tokens"])
    if task == "choice":
        inputs = {name: values.view(-1, CHOICES, values.shape[-1]) for name, values in inputs.items()}
    return inputs


def loss_of(task: str, model: nn.Module, inputs: dict, batch: dict) -> torch.Tensor:
    """As the class computes it, of the samples that count."""
    if task == "span":
        outputs = model(**inputs)
        padding = attended(batch) == 0  # which the class would let win
        scores = [logits.masked_fill(padding, -torch.inf) for logits in (outputs.start_logits, outputs.end_logits)]
        losses = [
            nn.functional.cross_entropy(s, batch[name]) for s, name in zip(scores, ("starts", "ends"), strict=True)
        ]
        return sum(losses) / 2
    if task in ("classify", "choice", "tag"):
        array = {"classify": "class_labels", "choice": "choice_labels", "tag": "tags"}[task]
        labels = torch.where(batch[array] >= 0, batch[array], -100)
        return model(**inputs, labels=labels).loss
    counted = batch["target_mask"] > 0
    labels = batch["targets" if task == "regress" else "label_sets"][counted]
    return model(**{name: values[counted] for name, values in inputs.items()}, labels=labels).loss


@functools.cache
def reference(family: str, task: str):
    model, config = hf_model(family, task), configured(1, task, **FAMILIES[family][0])
    batch = labelled_batch(config, task, SAMPLES)
    inputs = inputs_of(family, task, batch)
    loss = loss_of(task, model, inputs, batch)
    loss.backward()
    with torch.no_grad():
        outputs = model(**inputs)
    logits = (outputs.start_logits, outputs.end_logits) if task == "span" else (outputs.logits,)
    stored = {name: parameter.detach() for name, parameter in model.named_parameters()}
    unused = torch.zeros(())
    gradients = {name: unused if p.grad is None else p.grad for name, p in model.named_parameters()}
    return weights_of(config, stored), weights_of(config, gradients), float(loss.detach()), logits, batch


def score(world: World, config, weights, batch, task):
    """What is minimised, the outputs by array, and the gradient by name."""
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    (chunk,), shard_specs = model_of(config, groups, world.device.torch_device)
    assert {shard.name for shard_spec in shard_specs for shard in shard_spec.shards} == weights.keys()
    load(shard_specs, weights)
    chunk.eval()
    scores = chunk(batch)
    terms = TASKS[task].losses.values()
    loss = sum(term.weight * scores[term.over].loss / term.count(batch) for term in terms)
    loss.backward()
    for shard_spec in shard_specs:
        shard_spec.parameter.data = shard_spec.parameter.grad
    gradients = {name: pieces[0][2] for name, pieces in pieces_of(shard_specs).items()}
    return float(loss.detach()), {name: term.outputs.detach() for name, term in scores.items()}, gradients


@pytest.mark.parametrize(("family", "task"), covering(CELLS, QUICK))
def test_logits_losses_and_gradients(ranks, family, task):
    weights, gradients, loss, logits, batch = reference(family, task)
    config = configured(1, task, **FAMILIES[family][0])
    ((ours, outputs, ours_by_name),) = ranks.run(1, score, config, weights, batch, task)
    assert ours == pytest.approx(loss, abs=1e-5, rel=1e-5)
    for (name, output), expected in zip(outputs.items(), logits, strict=True):
        real = attended(batch).bool() if name in ("tags", "starts", "ends") else slice(None)
        assert float((output.reshape(expected.shape) - expected)[real].abs().max()) < 1e-5, name
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            ours_by_name[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


DROPPED = {
    "embeddings_and_halves": (
        {"hidden_dropout": 0.2, "classifier_dropout": 0.0},
        {"hidden_dropout_prob": 0.2, "classifier_dropout": 0.0},
    ),
    "attention": ({"attention_dropout": 0.3}, {"attention_probs_dropout_prob": 0.3}),
    "classifier": ({"classifier_dropout": 0.4}, {"classifier_dropout": 0.4}),
}
DRAWS = 500


def scores_of_draws(world: World, config, weights, batch):
    """The logits [draws, B, L] of a batch under as many masks."""
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    (chunk,), shard_specs = model_of(config, groups, world.device.torch_device)
    load(shard_specs, weights)
    chunk.eval()
    inner = chunk.head.output
    found = []
    inner.register_forward_hook(lambda module, inputs, output: found.append(output[0].detach().clone()))
    chunk.train()
    with torch.no_grad():
        for draw in range(DRAWS):
            chunk({**batch, "samples": batch["samples"] + 1000 * draw})
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("site", DROPPED)
def test_what_is_dropped_changes_scores_as_in_hugging_face(ranks, site):
    """In the mean and in the spread of each score over many masks."""
    ours, theirs = DROPPED[site]
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    torch.manual_seed(5)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**BERT_SIZES, **none, **theirs}, num_labels=3)
    )
    changes = {**FAMILIES["bert"][0], **{f"model__{name}": value for name, value in ours.items()}}
    config = configured(1, "classify", **changes)
    batch = labelled_batch(config, "classify", SAMPLES)
    stored = {name: parameter.detach() for name, parameter in model.named_parameters()}
    (mine,) = ranks.run(1, scores_of_draws, config, weights_of(config, stored), batch)
    model.train()
    with torch.no_grad():
        others = torch.stack([model(**inputs_of("bert", "classify", batch)).logits for _ in range(DRAWS)])
    assert mine.shape == others.shape
    error = ((mine.var(0) + others.var(0)) / DRAWS).sqrt()
    assert float(((mine.mean(0) - others.mean(0)).abs() / error).max()) < 4.5
    ratio = (mine.std(0) / others.std(0)).log().abs()
    assert float(ratio.max()) < 4.5 / DRAWS**0.5, "of a spread estimated from so many draws"
    assert float(others.std(0).min()) > 1e-3, "there is something to see"

"""Labels and choices that are texts: the likelihoods, losses and gradients of Transformers' models, and N ranks = 1 rank."""

import numpy as np
import pytest
import torch

from dist_plm.distributed.groups import build_groups
from tests.parts import model_of
from tests.ranks.engine_runs import agree
from tests.ranks.labelled import ALL_TASKS, SHARDINGS, agree_on_predictions, configured, labelled_batch, learner
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_encoders import DROPOUT, T5, TRANSFORMER
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_grids import MODELS as DECODERS
from tests.ranks.test_hf_parity import disturb, load, weights_of
from tests.ranks.times import LONG
from tests.ranks.training import grid_of, pieces_of
from tests.reference.hf import CASES, SMOOTH_T5, attended

pytestmark = pytest.mark.ranks

WRITTEN = ("written_choice", "written_label")
NETWORKS = {"gpt": {}, "llama": DECODERS["llama"], "t5": T5, "transformer": TRANSFORMER}
TASKS_OF = {"gpt": ["likely_choice"], "llama": ["likely_choice"], "t5": WRITTEN, "transformer": WRITTEN}
CELLS = [
    (network, task, grid, engine, zero_stage)
    for network in NETWORKS
    for task in TASKS_OF[network]
    for grid, engine, zero_stage in SHARDINGS
    if network in ("gpt", "llama") or "pipeline" not in grid
]
QUICK = [
    ("gpt", "likely_choice", "tensor2_pipeline2", "deepspeed", 1),
    ("llama", "likely_choice", "data2_pipeline2_virtual2", "megatron", 1),
    ("t5", "written_choice", "tensor2_sequence", "megatron", 0),
]


@pytest.fixture(scope="module")
def learn(ranks, tmp_path_factory):
    return learner(ranks, str(tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize(("network", "task", "grid", "engine", "zero_stage"), covering(CELLS, QUICK))
def test_grid_equals_one_rank(learn, network, task, grid, engine, zero_stage):
    world_size, changes = GRIDS[grid]
    settings = {**NETWORKS[network], **DROPOUT, "train__micro_batch": 2, "train__steps": 3}
    (reference,) = learn(1, task, **settings)
    outcomes = learn(world_size, task, engine__name=engine, engine__zero_stage=zero_stage, **settings, **changes)
    agree(outcomes, [reference])
    agree_on_predictions(outcomes, reference, task)


def score(world: World, config, weights, batch, task):
    """What is learned, in training and in evaluation, the likelihoods, and the gradient by name."""
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    (chunk,), shard_specs = model_of(config, groups, world.device.torch_device)
    load(shard_specs, weights)
    (term,) = ALL_TASKS[task].losses.values()
    chunk.train()
    loss = chunk(batch)[term.over].loss / term.count(batch)
    loss.backward()
    for shard_spec in shard_specs:
        shard_spec.parameter.data, held = shard_spec.parameter.grad, shard_spec.parameter.data
        shard_spec.parameter.grad = held
    gradients = {name: pieces[0][2].clone() for name, pieces in pieces_of(shard_specs).items()}
    load(shard_specs, weights)
    chunk.eval()
    with torch.no_grad():
        told = chunk(batch)[term.over]
    return float(loss.detach()), float(told.loss) / term.count(batch), int(told.correct), told.outputs, gradients


def likelihoods(model, batch) -> torch.Tensor:
    """Of the labels [R, T] of each text, by the model's whole logits."""
    if "decoder_tokens" in batch:
        times = len(batch["labels"]) // len(batch["tokens"])
        read = {"input_ids": batch["tokens"], "attention_mask": attended(batch)}
        read = {name: values.repeat_interleave(times, dim=0) for name, values in read.items()}
        logits = model(**read, decoder_input_ids=batch["decoder_tokens"]).logits
    else:
        logits = model(input_ids=batch["tokens"], attention_mask=attended(batch)).logits
    told = logits.log_softmax(-1).gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    return (told * (batch["labels"] >= 0)).sum(dim=-1)


@pytest.mark.parametrize(
    ("one", "task"),
    [
        pytest.param(CASES["gpt2"], "likely_choice", id="gpt2-likely_choice"),
        pytest.param(SMOOTH_T5, "written_choice", id="t5-written_choice"),
        pytest.param(SMOOTH_T5, "written_label", id="t5-written_label"),
    ],
)
def test_transformers_says_the_same(ranks, one, task):
    torch.manual_seed(5)
    model = one.build().eval()
    disturb(model)
    config = configured(1, task, **one.changes)
    batch = labelled_batch(config, task, np.arange(6))
    (term,) = ALL_TASKS[task].losses.values()
    truth = batch[term.over]
    scores = likelihoods(model, batch).view(len(truth), -1)
    counted = truth >= 0
    said = scores.log_softmax(-1) if term.over == "choice_labels" else scores
    loss = -said.gather(-1, truth.clamp(min=0)[:, None])[counted].mean()
    loss.backward()
    stored = {name: parameter.detach() for name, parameter in model.named_parameters()}
    theirs = {name: torch.zeros(()) if p.grad is None else p.grad for name, p in model.named_parameters()}
    weights, expected = weights_of(config, stored), weights_of(config, theirs)
    ((learned, measured, correct, outputs, gradients),) = ranks.run(1, score, config, weights, batch, task)
    assert learned == pytest.approx(float(loss.detach()), rel=1e-5)
    assert measured == pytest.approx(learned, rel=1e-6)
    assert correct == int((scores.argmax(-1) == truth)[counted].sum())
    torch.testing.assert_close(outputs, scores.detach(), rtol=1e-5, atol=1e-4)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")

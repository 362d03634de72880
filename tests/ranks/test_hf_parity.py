"""Our models with the weights of random Hugging Face ones: the same losses, gradients and logits."""

import functools

import numpy as np
import pytest
import torch

from dist_plm.distributed.groups import build_groups
from dist_plm.interop.hf.registry import hf_tensors
from tests.logits import record_logits
from tests.parts import engine_of, model_of
from tests.ranks.corrupted import LOSSES
from tests.ranks.pool import World
from tests.ranks.times import LONG
from tests.ranks.training import batch_of, configure, grid_of, losses_of, pieces_of
from tests.reference.hf import CASES, ELECTRA, attended, bert_outputs, electra_halves, hf_labels, nearest_zero

pytestmark = pytest.mark.ranks

SAMPLES = np.arange(6)
GRIDS = {"one": (1, {}), "tensor2_sequence": (2, {"parallel__tensor": 2, "parallel__sequence_parallel": True})}


def make_batch(config):
    return batch_of(config, SAMPLES)


def load(shard_specs, weights):
    for shard_spec in shard_specs:
        for shard in shard_spec.shards:
            assert shard.shape == tuple(weights[shard.name].shape), shard.name
            shard.local(shard_spec.parameter.data).copy_(shard.whole(weights[shard.name]))


def score(world: World, config, weights, batch):
    """Sums of each array's losses, the gradient of their means' sum by name, the logits of all positions, the names of all
    parameters, and the tokens that were embedded."""
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    (chunk,), shard_specs = model_of(config, groups, world.device.torch_device)
    names = {shard.name for shard_spec in shard_specs for shard in shard_spec.shards}
    load(shard_specs, weights)
    chunk.eval()
    read = []
    hook = chunk.embedding.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    scores = chunk(batch)
    hook.remove()
    sum(term.loss / (batch[name] >= 0).sum() for name, term in scores.items()).backward()
    gradients = {}
    for shard_spec in shard_specs:
        shard_spec.parameter.data = shard_spec.parameter.grad
        gradients |= {name: pieces[0][2] for name, pieces in pieces_of([shard_spec]).items()}
    load(shard_specs, weights)
    seen = []
    record_logits(chunk.output, seen.append)
    with torch.no_grad():
        chunk({**batch, "labels": torch.zeros_like(batch["labels"])})
    return {name: float(term.loss) for name, term in scores.items()}, gradients, seen[0], names, read


def weights_of(config, state, half=None):
    return {entry.name: entry.logical(state[entry.hf]).clone() for entry in hf_tensors(config.model, half)}


def disturb(*models):
    """Norms and biases are constant at first."""
    with torch.no_grad():
        for parameter in dict.fromkeys(p for model in models for p in model.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))


@functools.cache
def reference(name):
    case, (config, _) = CASES[name], settings(name, "one")
    batch = make_batch(config)
    torch.manual_seed(5)
    while True:
        model = case.build().eval()
        disturb(model)
        if nearest_zero(model, lambda one: case.loss(one, batch)) > 1e-5:
            break
    losses = case.loss(model, batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    stored = {n: p.detach() for n, p in model.named_parameters()}
    with torch.no_grad():
        logits = case.logits(model, batch)
    return (
        weights_of(config, stored),
        weights_of(config, gradients),
        {n: float(loss.detach()) for n, loss in losses.items()},
        logits,
        model.num_parameters(),
    )


def settings(name, grid):
    world_size, changes = GRIDS[grid]
    return configure(world_size, **changes, **CASES[name].changes), world_size


#: Logits of all of them, on grids too, are compared in tests/train/startup/test_load_weights.py.
ON_GRIDS = ("bert", "t5_v1_1")
CELLS = [
    pytest.param(name, grid, marks=() if grid == "one" or name in ON_GRIDS else pytest.mark.slow)
    for name in CASES
    for grid in GRIDS
]


@pytest.mark.parametrize(("name", "grid"), CELLS)
def test_losses_gradients_and_logits(ranks, name, grid):
    config, world_size = settings(name, grid)
    weights, gradients, losses, logits, num_parameters = reference(name)
    batch = make_batch(config)
    outcomes = ranks.run(world_size, score, config, weights, batch)
    terms = LOSSES.get(config.objective.name)
    arrays = {term: loss.over for term, loss in terms.items()} if terms else {"causal": "labels"}
    for sums, _, _, names, _ in outcomes:
        assert names == weights.keys()
        for term, expected in losses.items():
            count = int((batch[arrays[term]] >= 0).sum())
            assert sums[arrays[term]] / count == pytest.approx(expected, abs=1e-4), term
    ours = torch.cat([outcome[2] for outcome in outcomes], dim=-1)[..., : logits.shape[-1]]
    # A decoder lengthens its rows.
    ours = ours.view(-1, logits.shape[0], logits.shape[2])[: logits.shape[1]].transpose(0, 1)
    real = batch.get("lengths", torch.tensor(logits.shape[1]))
    rows = torch.arange(logits.shape[1]) < real.view(-1, 1).expand(logits.shape[0], 1)
    assert float((ours - logits)[rows].abs().max()) < 1e-4
    assert sum(tensor.numel() for tensor in weights.values()) == num_parameters
    if world_size == 1:
        for tensor_name, gradient in gradients.items():
            torch.testing.assert_close(
                outcomes[0][1][tensor_name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=tensor_name: f"{n}: {m}"
            )


def score_in_stages(world: World, config, weights, batch):
    """Mean losses by name as the engine evaluates them, and the logits of all positions on the last stage."""
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    model, shard_specs = model_of(config, groups, world.device.torch_device)
    load(shard_specs, weights)
    engine = engine_of(config, groups, world.device.torch_device, model, losses_of(config))
    means = {name: term.mean for name, term in engine.eval_step([batch]).items()}
    seen = []
    if groups.coordinates.pipeline == groups.grid.pipeline - 1:
        record_logits(model[-1].output, seen.append)
    engine.eval_step([{**batch, "labels": torch.zeros_like(batch["labels"])}])
    return means, seen


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ON_GRIDS else pytest.mark.slow)
        for name in CASES
        if not name.startswith("t5")
    ],
)
def test_two_pipeline_stages(ranks, name):
    settings = {**CASES[name].changes, "train__micro_batch": len(SAMPLES), "train__global_batch": len(SAMPLES)}
    config = configure(2, parallel__pipeline=2, **settings)
    weights, _, losses, logits, _ = reference(name)
    batch = make_batch(config)
    first, last = ranks.run(2, score_in_stages, config, weights, batch)
    for means, _ in (first, last):
        assert means == pytest.approx(losses, abs=1e-4)
    assert not first[1]
    ours = last[1][0][..., : logits.shape[-1]].view(logits.shape[1], logits.shape[0], -1).transpose(0, 1)
    rows = attended(batch).bool()
    assert float((ours - logits)[rows].abs().max()) < 1e-4


@pytest.mark.parametrize("grid", GRIDS)
def test_both_halves_of_electra(ranks, grid):
    world_size, changes = GRIDS[grid]
    config = configure(world_size, **changes, **ELECTRA)
    torch.manual_seed(6)
    generator, discriminator = electra_halves()
    disturb(generator, discriminator)
    weights = {}
    for half, model in (("generator", generator), ("discriminator", discriminator)):
        weights |= weights_of(config, {n: p.detach() for n, p in model.named_parameters()}, half)
    batch = make_batch(config)
    outcomes = ranks.run(world_size, score, config, weights, batch)
    _, tokens = outcomes[0][4]
    masked = batch["labels"] >= 0
    assert torch.equal(tokens[~masked], batch["originals"][~masked])
    assert (tokens != batch["originals"]).sum() > masked.sum() // 2
    proposed = bert_outputs(generator, batch, labels=hf_labels(batch["labels"])).loss
    labels = (tokens != batch["originals"]).long()
    judged = discriminator(tokens, attention_mask=attended(batch), labels=labels).loss
    for sums, _, _, names, read in outcomes:
        assert names == weights.keys()
        assert torch.equal(read[1], tokens)
        assert sums["labels"] / int(masked.sum()) == pytest.approx(float(proposed.detach()), abs=1e-4)
        assert sums["originals"] / masked.numel() == pytest.approx(float(judged.detach()), abs=1e-4)
    if world_size == 1:
        (proposed + judged).backward()
        for half, model in (("generator", generator), ("discriminator", discriminator)):
            for name, gradient in weights_of(config, {n: p.grad for n, p in model.named_parameters()}, half).items():
                torch.testing.assert_close(
                    outcomes[0][1][name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
                )

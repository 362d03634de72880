"""Attention masks against a dense reference, the head at predicted positions against the head everywhere, and packed rows
against padded ones."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.distributed.groups import build_groups
from dist_plm.models.electra import vocab_parallel_sample
from dist_plm.models.kernels import linear_loss
from dist_plm.models.kernels.linear_loss import VocabRange
from dist_plm.models.layers import attention
from dist_plm.models.layers.attention import CoreAttention
from dist_plm.models.layers.dropout import Site
from dist_plm.models.layers.pretraining_heads import whole_sequence
from dist_plm.models.layers.vocab_loss import score_tokens
from dist_plm.models.masks import ranges_of
from dist_plm.models.sequence_context import SequenceContext
from dist_plm.objectives.build import build_objective
from tests.parts import model_context_of, model_of
from tests.ranks.corrupted import corrupted_batch
from tests.ranks.pool import World
from tests.ranks.test_encoders import MODELS
from tests.ranks.times import LONG
from tests.ranks.training import VOCAB, configure, grid_of

pytestmark = pytest.mark.ranks

LENGTH, BATCH = 40, 3
SPECIAL = SpecialTokens(vocab_size=VOCAB, ids=tuple(range(5)), pad=0, cls=1, sep=2, mask=3)


def groups_of(world: World, config):
    return build_groups(grid_of(config), world.device, timeout=LONG)


def attend(world: World, settings: dict):
    """Output and gradient of attention in blocks of 7 queries, of one dense softmax over the whole mask, and with ranges of
    keys where they tell all."""
    config = configure(1)
    core = CoreAttention(model_context_of(config, groups_of(world, config), torch.device("cpu")), Site.ATTENTION_SCORES)
    torch.manual_seed(3)
    inputs = [torch.randn(LENGTH, BATCH, config.model.hidden, requires_grad=True) for _ in range(3)]
    context = SequenceContext(**{"causal": False, **settings})
    attention.QUERY_BLOCK, before = 7, attention.QUERY_BLOCK
    ours = core(*inputs, context)
    attention.QUERY_BLOCK = before
    query, key, value = (x.view(LENGTH, BATCH, 4, 16).permute(1, 2, 0, 3) for x in inputs)
    weights = (query @ key.transpose(-1, -2) / 4).masked_fill(~dense_mask(context)[:, None], -torch.inf).softmax(-1)
    theirs = (weights @ value).permute(2, 0, 1, 3).flatten(2)
    real = torch.ones(LENGTH, BATCH, 1)
    if context.lengths is not None:
        real = (torch.arange(LENGTH)[:, None] < context.lengths)[..., None].float()
    found = [ours, theirs]
    if context.global_tokens == 0:
        ranges, rows = ranges_of(context, torch.arange(LENGTH)), torch.arange(LENGTH)[:, None]
        first, behind = ranges.of_keys[:, :, None]
        # Padding alone tells nothing of who is padding.
        seen = dense_mask(context) & ((rows < context.lengths[:, None, None]) if set(settings) == {"lengths"} else True)
        assert not (seen & ~((rows >= first) & (rows < behind))).any()
        found.append(core(*inputs, replace(context, ranges=ranges)))
    gradients = [torch.autograd.grad((out * real).pow(2).sum(), inputs) for out in found]
    return [(out * real).detach() for out in found], gradients


def dense_mask(context: SequenceContext) -> torch.Tensor:
    mask = torch.ones(BATCH, LENGTH, LENGTH, dtype=torch.bool)
    for b in range(BATCH):
        for i in range(LENGTH):
            for j in range(LENGTH):
                is_global = i < context.global_tokens or j < context.global_tokens
                if context.window and abs(i - j) > context.window and not is_global:
                    mask[b, i, j] = False
                if context.causal and j > i:
                    mask[b, i, j] = False
                if context.seen_from is not None and i < context.seen_from[b, j]:
                    mask[b, i, j] = False
                if context.documents is not None and context.documents[b, i] != context.documents[b, j]:
                    mask[b, i, j] = False
                if context.lengths is not None and j >= context.lengths[b] and i < context.lengths[b]:
                    mask[b, i, j] = False
    return mask


DOCUMENTS = (torch.arange(LENGTH) // torch.tensor([[7], [13], [40]])).int()
#: The first tokens of a row, and of each document, see each other; the others see those before them.
PREFIX = torch.where(torch.arange(LENGTH) < torch.tensor([[5], [40], [1]]), 0, torch.arange(LENGTH))
WITHIN = torch.arange(LENGTH) % torch.tensor([[7], [13], [40]])
OPENED = torch.tensor([[3], [9], [11]])
PREFIXES = torch.arange(LENGTH) - torch.where(WITHIN < OPENED, WITHIN, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 3},
        {"window": 3, "causal": True},
        {"window": 3, "lengths": torch.tensor([40, 1, 17])},
        {"window": 3, "global_tokens": 2},
        {"window": 9, "global_tokens": 8},
        {"window": 3, "global_tokens": 1, "causal": True},
        {"window": 3, "global_tokens": 1, "lengths": torch.tensor([40, 1, 17])},
        {"window": 5, "documents": DOCUMENTS},
        {"lengths": torch.tensor([40, 1, 17])},
        {"documents": DOCUMENTS},
        {"documents": DOCUMENTS, "lengths": torch.tensor([40, 33, 5])},
        {"seen_from": PREFIX},
        {"seen_from": PREFIXES, "documents": DOCUMENTS},
        {"seen_from": PREFIX, "window": 3, "global_tokens": 1},
    ],
    ids=str,
)
def test_attention_in_blocks_equals_a_dense_mask(ranks, settings):
    (((blocks, dense, *ranged), (of_blocks, of_dense, *of_ranged)),) = ranks.run(1, attend, settings)
    assert len(ranged) == ("global_tokens" not in settings)
    for ours, gradients in zip([blocks, *ranged], [of_blocks, *of_ranged], strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-5)
        for mine, reference in zip(gradients, of_dense, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


def drop_in_windows(world: World, settings: dict):
    """Output and gradients of attention with dropout over a long sequence: in blocks, and with ranges."""
    config = configure(1, model__attention_dropout=0.3)
    core = CoreAttention(model_context_of(config, groups_of(world, config), torch.device("cpu")), Site.ATTENTION_SCORES)
    torch.manual_seed(3)
    inputs = [torch.randn(1100, 1, config.model.hidden, requires_grad=True) for _ in range(3)]
    context = SequenceContext(causal=False, keys=torch.arange(len(Site))[:, None], **settings)
    found = [core(*inputs, one) for one in (context, replace(context, ranges=ranges_of(context, torch.arange(1100))))]
    return [[out.detach(), *torch.autograd.grad(out.pow(2).sum(), inputs)] for out in found]


@pytest.mark.parametrize("settings", [{"window": 100}, {"documents": torch.arange(1100)[None] // 700}], ids=str)
def test_ranges_drop_what_blocks_drop(ranks, settings):
    """Under a window blocks count columns from the first that any of their queries sees."""
    ((blocks, ranged),) = ranks.run(1, drop_in_windows, settings)
    for one, other in zip(blocks, ranged, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def head_twice(world: World, config):
    """Loss, correct labels and gradients with the head at the predicted positions, and with it everywhere."""
    (chunk,), _ = model_of(config, groups_of(world, config), torch.device("cpu"))
    chunk.eval()
    batch = corrupted_batch(config, np.arange(4))
    labels = batch["labels"].transpose(0, 1)
    torch.manual_seed(4)
    slices = config.parallel.tensor if config.parallel.sequence_parallel else 1
    hidden = torch.randn(labels.shape[0] // slices, labels.shape[1], config.model.hidden, requires_grad=True)
    results = []
    for everywhere in (False, True):
        chunk.zero_grad()
        hidden.grad = None
        if everywhere:
            logits = chunk.logits(chunk.transform(whole_sequence(hidden, chunk.shared)))
            scores = score_tokens(logits, labels, chunk.shared, evaluate=True)
        else:
            scores = chunk.score(hidden, batch, SequenceContext(causal=False))["labels"]
        scores.loss.backward()
        gradients = {name: p.grad.clone() for name, p in chunk.named_parameters() if p.grad is not None}
        results.append((scores.loss.detach(), int(scores.correct), {**gradients, "hidden": hidden.grad.clone()}))
    return results


@pytest.mark.parametrize("tensor", [1, 2])
def test_the_head_at_predicted_positions_equals_the_head_everywhere(ranks, tensor):
    changes = {"parallel__tensor": 2, "parallel__sequence_parallel": True} if tensor == 2 else {}
    config = configure(tensor, **MODELS["roberta"], **changes)
    for chosen, everywhere in ranks.run(tensor, head_twice, config):
        torch.testing.assert_close(chosen[0], everywhere[0])
        assert chosen[1] == everywhere[1]
        assert chosen[2].keys() == everywhere[2].keys()
        for name, gradient in everywhere[2].items():
            torch.testing.assert_close(chosen[2][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def electra_in_chunks(world: World, config, chunk_bytes: int):
    """Losses and gradients of ELECTRA, whose generator's logits come so many bytes at a time; and of an evaluation."""
    (chunk,), _ = model_of(config, groups_of(world, config), torch.device("cpu"))
    batch = corrupted_batch(config, np.arange(4))
    before, linear_loss.LOSS_CHUNK_BYTES = linear_loss.LOSS_CHUNK_BYTES, chunk_bytes
    try:
        scores = chunk(batch)
        sum(score.loss for score in scores.values()).backward()
        evaluated = chunk.eval()(batch)
    finally:
        linear_loss.LOSS_CHUNK_BYTES = before
    losses = [score.loss.detach() for told in (scores, evaluated) for score in told.values()]
    correct = [int(score.correct) for score in evaluated.values()]
    return losses, correct, {name: p.grad.clone() for name, p in chunk.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_generator_draws_the_same_tokens_in_chunks(ranks, tensor):
    """Which tokens are judged, the discriminator's loss tells."""
    config = configure(tensor, **MODELS["electra"], parallel__tensor=tensor)
    whole, cut = (ranks.run(tensor, electra_in_chunks, config, size) for size in (2**27, 4 * 7 * VOCAB))
    for (losses, correct, gradients), (others, also_correct, theirs) in zip(whole, cut, strict=True):
        torch.testing.assert_close(losses, others, rtol=1e-6, atol=0.0)
        assert correct == also_correct
        assert gradients.keys() == theirs.keys()
        for name, gradient in gradients.items():
            # An element is a sum over tokens whose terms are of the size of the largest, whatever comes of it.
            rounding = 1e-6 * float(theirs[name].abs().max())
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=rounding, msg=name)


@dataclass(frozen=True)
class Packed:
    """One row of three short documents, with room for the frame of each."""

    tokens: np.ndarray
    documents: np.ndarray
    samples: np.ndarray
    lengths: np.ndarray
    frame: int = 2


def pack(world: World, config):
    """Loss and gradients of three short documents packed into one row, and of each in a row of its own, padded."""
    (chunk,), _ = model_of(config, groups_of(world, config), torch.device("cpu"))
    chunk.eval()
    lengths = [9, 14, 3]
    tokens = np.zeros((1, LENGTH - 1), dtype=np.int64)
    tokens[0, : sum(lengths)] = np.random.default_rng(0).integers(5, 200, sum(lengths))
    documents = np.full((1, LENGTH - 1), 3, dtype=np.int32)
    documents[0, : sum(lengths)] = np.repeat(np.arange(3), lengths)
    objective = build_objective(config.objective, SPECIAL, seed=3)
    windows = Packed(tokens, documents, np.arange(1), np.array([sum(lengths)]))
    together = {name: torch.from_numpy(array) for name, array in objective.collate(windows).items()}
    # Each document with its frame.
    parts = [(together["documents"][0] == number).nonzero()[:, 0] for number in range(3)]
    assert [len(part) for part in parts] == [length + 2 for length in lengths]
    apart = {
        name: torch.stack([functional.pad(together[name][0, p], (0, 16 - len(p)), value=fill) for p in parts])
        for name, fill in (("tokens", 0), ("labels", -1))
    }
    assert (apart["tokens"][:, 0] == SPECIAL.cls).all()
    assert (apart["labels"] >= 0).any(dim=1).all()
    apart["lengths"] = torch.tensor([len(part) for part in parts])
    results = []
    for batch in (apart, together):
        chunk.zero_grad()
        loss = chunk({**batch, "samples": torch.arange(len(batch["tokens"]))})["labels"].loss
        loss.backward()
        results.append((loss.detach(), {n: p.grad.clone() for n, p in chunk.named_parameters()}))
    return results


@pytest.mark.parametrize("model", ["roberta", "bert_pre_norm"])
def test_packed_rows_equal_padded_ones(ranks, model):
    """Each document of a packed row has a frame, positions and attention of its own."""
    masks = {"document_mask": True, "reset_positions": True, "mask_rate": 0.5, "name": "mlm"}
    changes = {f"objective__{name}": value for name, value in masks.items()}
    config = configure(1, **{**MODELS[model], **changes, "data__sequence_length": LENGTH})
    ((apart, together),) = ranks.run(1, pack, config)
    torch.testing.assert_close(together[0], apart[0], rtol=1e-5, atol=0.0)
    for name, gradient in apart[1].items():
        torch.testing.assert_close(together[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def draw_tokens(world: World, logits, uniform):
    """Each rank has a share of the columns, the last of them padding."""
    width = -(-logits.shape[1] // world.size) + 1
    first = world.rank * width
    padded = torch.nn.functional.pad(logits, (0, width * world.size - logits.shape[1]), value=50.0)
    valid = max(0, min(logits.shape[1] - first, width))
    group = torch.distributed.group.WORLD
    assert group is not None
    return vocab_parallel_sample(
        padded[:, first : first + width], uniform, VocabRange(group, first, valid, logits.shape[1])
    )


@pytest.mark.parametrize("size", [1, 3])
def test_sampled_tokens_follow_the_softmax(ranks, size):
    torch.manual_seed(0)
    logits = torch.randn(1, 11).mul(1.5).expand(20_000, 11)
    uniform = torch.rand(20_000, dtype=torch.float64)
    drawn, *others = ranks.run(size, draw_tokens, logits, uniform)
    assert all(torch.equal(other, drawn) for other in others)
    share = torch.bincount(drawn, minlength=11).double() / len(drawn)
    expected = logits[0].double().softmax(-1)
    sigma = (expected * (1 - expected) / len(drawn)).sqrt()
    assert ((share - expected).abs() < 4.5 * sigma).all()

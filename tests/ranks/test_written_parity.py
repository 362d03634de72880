"""Models that learn to write: five steps of ours are those of a plain loop over Transformers' classes, whose labels are -100
where nothing is learned and whose dialogues stand in rows of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dist_plm.interop.hf.registry import hf_tensors
from tests.ranks.labelled import configured, labelled_batch, learn_case
from tests.ranks.test_hf_parity import score, weights_of
from tests.ranks.training import VOCAB, learning_rates, whole
from tests.reference.hf import CASES, SMOOTH_T5, Case, attended, hf_labels

pytestmark = pytest.mark.ranks

#: Rows of Transformers are a token longer, as it shifts labels itself.
POSITIONS = 40
Inputs = dict[str, Tensor]


def _continued(batch: Inputs) -> Inputs:
    """Rows of a decoder as `labels` of Transformers has them: what is to be said at a place, not after it."""
    rows = len(batch["tokens"])
    return {
        "input_ids": torch.cat([batch["tokens"], torch.zeros(rows, 1, dtype=torch.long)], dim=1),
        "attention_mask": torch.cat([attended(batch), torch.zeros(rows, 1, dtype=torch.long)], dim=1),
        "labels": torch.cat([torch.full((rows, 1), -100), hf_labels(batch["labels"])], dim=1),
    }


def _apart(batch: Inputs) -> Inputs:
    """The dialogues of packed rows, each in a row of its own."""
    tokens, labels = [], []
    for row in range(len(batch["tokens"])):
        documents = batch["documents"][row, : int(batch["lengths"][row])]
        for document in documents.unique():
            places = (documents == document).nonzero()[:, 0]
            tokens.append(batch["tokens"][row, places])
            labels.append(batch["labels"][row, places])
    lengths = torch.tensor([len(one) for one in tokens])
    texts = {"tokens": pad_sequence(tokens, batch_first=True), "lengths": lengths}
    return _continued({**texts, "labels": pad_sequence(labels, batch_first=True, padding_value=-1)})


def _answered(batch: Inputs) -> Inputs:
    return {
        "input_ids": batch["tokens"],
        "attention_mask": attended(batch),
        "decoder_input_ids": batch["decoder_tokens"],
        "labels": hf_labels(batch["labels"]),
    }


@dataclass(frozen=True, slots=True)
class Written:
    case: Case
    task: str
    inputs: Callable[[Inputs], Inputs]
    build: Callable[[], nn.Module] | None = None
    changes: tuple[tuple[str, Any], ...] = ()


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=POSITIONS, n_embd=64, n_layer=4, n_head=4, attn_implementation="eager"
        )
    )


LONGER = (("model__max_positions", POSITIONS),)
WRITTEN = {
    "gpt2_continued": Written(CASES["gpt2"], "continued", _continued, _gpt2, LONGER),
    "gpt2_packed": Written(CASES["gpt2"], "packed", _apart, _gpt2, LONGER),
    "llama_continued": Written(CASES["llama"], "continued", _continued),
    "llama_packed": Written(CASES["llama"], "packed", _apart),
    "t5_answered": Written(SMOOTH_T5, "answered", _answered),
    "t5_v1_1_answered": Written(CASES["t5_v1_1"], "answered", _answered),
}


def plain_steps(
    model: nn.Module, config: Any, batches: list[Inputs]
) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """AdamW with clipping: losses, norms of gradients, and the gradients of the first step by name."""
    named = dict(model.named_parameters())
    decayed = [p for p in named.values() if p.dim() > 1]
    plain = [p for p in named.values() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": config.optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas, eps=config.optim.eps)
    losses, norms, first = [], [], {}
    for batch, lr in zip(batches, learning_rates(config), strict=True):
        adamw.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        first = first or {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        losses.append(float(loss.detach()))
        norms.append(float(nn.utils.clip_grad_norm_(named.values(), config.optim.clip_norm)))
        for group in adamw.param_groups:
            group["lr"] = lr
        adamw.step()
    return losses, norms, first


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if one == "llama_continued" else ()) for one in WRITTEN]
)
def test_five_steps_are_those_of_a_plain_loop(ranks, tmp_path, name):
    one = WRITTEN[name]
    case = one.case
    config = configured(1, one.task, run__root=str(tmp_path), **case.changes, **dict(one.changes))
    (outcome,) = ranks.run(1, learn_case, config, one.task)
    initial, final = whole([outcome], "initial"), whole([outcome], "final")
    model = (one.build or case.build)().eval()
    stored = dict(model.named_parameters())
    with torch.no_grad():
        for entry in hf_tensors(config.model):
            entry.logical(stored[entry.hf]).copy_(initial[entry.name])
    size = config.train.global_batch
    batches = [labelled_batch(config, one.task, np.arange(s * size, (s + 1) * size)) for s in range(config.train.steps)]
    learned = [int((batch["labels"] >= 0).sum()) for batch in batches]
    assert len(set(learned)) > 1, "steps learn from other numbers of tokens"
    losses, norms, theirs = plain_steps(model, config, [one.inputs(batch) for batch in batches])
    assert outcome.losses == pytest.approx(losses, rel=1e-5)
    assert outcome.norms == pytest.approx(norms, rel=1e-5)
    for tensor, expected in weights_of(config, {key: p.detach() for key, p in stored.items()}).items():
        torch.testing.assert_close(final[tensor], expected, rtol=1e-5, atol=1e-5, msg=lambda m, n=tensor: f"{n}: {m}")
    _, ours, *_ = ranks.run(1, score, config, initial, batches[0])[0]
    gradients = weights_of(config, theirs)
    assert ours.keys() == gradients.keys()
    for tensor, gradient in gradients.items():
        torch.testing.assert_close(ours[tensor], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=tensor: f"{n}: {m}")

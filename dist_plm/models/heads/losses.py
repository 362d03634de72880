"""Scores what heads say of samples: sums of losses in fp32, and in evaluation hits and what was predicted."""

import torch
from torch import Tensor
from torch.nn import functional

from dist_plm.data.loader.batch import Batch
from dist_plm.models.loss_sums import Scores, TermScores


def score_classes(logits: Tensor, labels: Tensor, *, evaluate: bool, soft: Tensor | None = None) -> TermScores:
    """Computes the cross-entropy of one label in each row.

    Args:
        logits: [..., L].
        labels: [...], negative where nothing is predicted.
        soft: [..., L], how much each class is learned in place of the label alone.
    """
    logits, counted = logits.float(), labels >= 0
    if soft is None:
        losses = functional.cross_entropy(logits.flatten(0, -2), labels.flatten().clamp(min=0), reduction="none")
    else:
        losses = -(soft * logits.log_softmax(dim=-1)).sum(dim=-1).flatten()
    loss = (losses * counted.flatten()).sum()
    if not evaluate:
        return TermScores(loss, None)
    return TermScores(loss, (counted & (logits.argmax(dim=-1) == labels)).sum(), logits)


def score_twins(logits: Tensor, twins: Tensor, *, evaluate: bool, apart: bool = False) -> TermScores:
    """Computes how two readings of each sample differ: the mean of both Kullback-Leibler divergences. In evaluation each is
    read once, and nothing differs.

    Args:
        logits: [2 B, L], the readings of a sample one after the other.
        twins: [2 B], negative where nothing is compared; the first of two rows tells.
        apart: whether each label has a probability of its own; then divergences are added up over labels.
    """
    if evaluate:
        none = torch.zeros((), device=logits.device)
        return TermScores(none, none)
    logits = logits.float()
    # Of a probability p beside 1 - p, (p - q) (log p - log q) + (q - p) (log (1 - p) - log (1 - q)) = (p - q) (x - y).
    scores, shares = (logits, logits.sigmoid()) if apart else (logits.log_softmax(dim=-1), logits.softmax(dim=-1))
    differences = (scores[::2] - scores[1::2]) * (shares[::2] - shares[1::2])
    differences = differences.sum(dim=-1) / 2
    return TermScores((differences * (twins[::2] >= 0)).sum(), None)


def score_targets(logits: Tensor, targets: Tensor, mask: Tensor, *, evaluate: bool) -> TermScores:
    """Computes squared errors.

    Args:
        logits: [B, 1].
        targets: [B].
        mask: [B], 0 where nothing is predicted.
    """
    predicted = logits.float()[:, 0]
    loss = (functional.mse_loss(predicted, targets.float(), reduction="none") * mask).sum()
    return TermScores(loss, None, predicted[:, None] if evaluate else None)


def score_label_sets(logits: Tensor, labels: Tensor, mask: Tensor, *, evaluate: bool) -> TermScores:
    """Computes the binary cross-entropy of every label by itself.

    Args:
        logits, labels: [B, L].
        mask: [B], 0 where nothing is predicted.
    """
    logits, counted = logits.float(), mask[:, None] > 0
    losses = functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    loss = (losses * counted).sum()
    if not evaluate:
        return TermScores(loss, None)
    return TermScores(loss, (counted & ((logits > 0) == (labels > 0))).sum(), logits)


def score_sequences(logits: Tensor, batch: Batch, *, evaluate: bool) -> Scores:
    """Scores each array of the batch that says something of whole sequences by logits [B, L]; see objectives.base."""
    scores: Scores = {}
    if "class_labels" in batch:
        soft = batch.get("class_labels_soft")
        scores["class_labels"] = score_classes(logits, batch["class_labels"], evaluate=evaluate, soft=soft)
    if "twins" in batch:
        scores["twins"] = score_twins(logits, batch["twins"], evaluate=evaluate, apart="label_sets" in batch)
    if "choice_labels" in batch:
        labels, soft = batch["choice_labels"], batch.get("choice_labels_soft")
        scores["choice_labels"] = score_classes(logits.reshape(len(labels), -1), labels, evaluate=evaluate, soft=soft)
    if "targets" in batch:
        scores["targets"] = score_targets(logits, batch["targets"], batch["target_mask"], evaluate=evaluate)
    if "label_sets" in batch:
        scores["label_sets"] = score_label_sets(logits, batch["label_sets"], batch["target_mask"], evaluate=evaluate)
    return scores


def score_spans(logits: Tensor, batch: Batch, *, evaluate: bool) -> Scores:
    """Scores `starts` and `ends` by logits [B, S, 2]. Nothing begins or ends in the padding, so that the loss of a sample does
    not depend on how far its microbatch is padded."""
    logits = logits.float()
    if "lengths" in batch:
        is_padding = torch.arange(logits.shape[1], device=logits.device) >= batch["lengths"][:, None]
        logits = logits.masked_fill(is_padding[..., None], -torch.inf)
    starts, ends = logits.unbind(dim=-1)
    return {
        "starts": score_classes(starts, batch["starts"], evaluate=evaluate),
        "ends": score_classes(ends, batch["ends"], evaluate=evaluate),
    }

"""Scores labels and choices that are texts by their likelihood: of C texts of a sample, which follow each other, the model says
the likeliest."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from dist_plm.data.loader.batch import Batch
from dist_plm.models.loss_sums import TermScores

#: Arrays that tell which text of a sample is right, and whether that is learned against the sample's other texts; else the
#: text itself is learned.
_TRUTHS = {"choice_labels": True, "class_labels": False}


class Truth(NamedTuple):
    """Tells which of a sample's texts are right.

    Args:
        over: the array of the batch that says so.
        labels: [B], negative where nothing is predicted.
        share: [B, C] fp32, how much each text is learned; 0 where nothing is predicted.
        against: it is learned that a text is likelier than the others, by the cross-entropy over the texts; else that it is
            likely.
    """

    over: str
    labels: Tensor
    share: Tensor
    against: bool


def truth_of(batch: Batch, num_texts: int) -> Truth | None:
    """Finds it in a microbatch of `num_texts` texts over all samples; None where tokens are learned for themselves."""
    for over, against in _TRUTHS.items():
        if over not in batch:
            continue
        labels = batch[over]
        soft = batch.get(f"{over}_soft")
        share = functional.one_hot(labels.clamp(min=0), num_texts // len(labels)) if soft is None else soft
        return Truth(over, labels, share.float() * (labels >= 0)[:, None], against)
    return None


def learned_factors(truth: Truth, losses: Tensor) -> Tensor:
    """Gives the derivative of what is learned by the negative log-likelihoods [B, C] of the texts, [B, C]."""
    if not truth.against:
        return truth.share
    return truth.share - (-losses).softmax(dim=-1) * truth.share.sum(dim=-1, keepdim=True)


def score_texts(truth: Truth, losses: Tensor, *, evaluate: bool) -> TermScores:
    """Scores samples by the negative log-likelihoods [B, C] of their texts."""
    told = -(-losses).log_softmax(dim=-1) if truth.against else losses
    loss = (truth.share * told).sum()
    if not evaluate:
        return TermScores(loss, None)
    correct = ((truth.labels >= 0) & (losses.argmin(dim=-1) == truth.labels)).sum()
    return TermScores(loss, correct, -losses)


def of_texts(values: Tensor, texts: Tensor) -> Tensor:
    """Spreads values [B, C] of texts over their tokens [T, B C]."""
    return values.flatten().expand(texts.shape)


def add_tokens(losses: Tensor, texts: Tensor, truth: Truth) -> Tensor:
    """Adds up what tokens [T B C] lose to what texts lose, [B, C].

    Args:
        texts: [T, B C], their tokens.
    """
    return losses.view(texts.shape).sum(dim=0).view(len(truth.labels), -1)

"""Beam search with a model that ranks share: the most likely texts, as Transformers' `generate` finds them by default."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Stands for a text that cannot be chosen.
_NEVER = -1.0e9


@dataclass(slots=True)
class Beams:
    """Holds the texts that are followed, and the best that ended, for B rows with K beams each.

    Args:
        running: [B, K, S] tokens, with their `scores` [B, K]: sums of log-likelihoods.
        ended: [B, K, last], filled up with padding; `ended_scores` [B, K] are means over tokens, `is_ended` where there is one.
        improves: [B, 1], whether a row may still find a better text.
        first: tokens before the first new one.
        last: tokens of a text at most.
    """

    running: Tensor
    scores: Tensor
    ended: Tensor
    ended_scores: Tensor
    is_ended: Tensor
    improves: Tensor
    first: int
    last: int
    goes_on: bool = True

    @classmethod
    def of(cls, tokens: Tensor, beams: int, room: int, pad: int) -> "Beams":
        """Begins with B rows of tokens [B, S]."""
        rows, length = tokens.shape
        running = tokens[:, None].expand(-1, beams, -1).clone()
        scores = torch.full((rows, beams), _NEVER, device=tokens.device)
        scores[:, 0] = 0.0  # the others are the same text
        ended = torch.full((rows, beams, length + room), pad, device=tokens.device)
        never = torch.full_like(scores, _NEVER)
        return cls(running, scores, ended, never, never > 0, never[:, :1] < 0, length, length + room)

    @property
    def flat(self) -> Tensor:
        """Gives the texts that are followed, [B K, S]."""
        return self.running.flatten(0, 1)

    def extend(self, log_likelihoods: Tensor, ends: Tensor, stops: Sequence[Callable[..., Tensor]]) -> Tensor:
        """Takes the best continuations, of the log-likelihoods [B K, V] of next tokens; returns of which beams they are, [B K].

        Args:
            ends: tokens that end a text.
            stops: tell of texts [N, S] which ended otherwise, [N].
        """
        rows, beams, length = self.running.shape
        vocabulary = log_likelihoods.shape[-1]
        sums = (log_likelihoods.view(rows, beams, vocabulary) + self.scores[:, :, None]).flatten(1)
        best, at = sums.topk(min(max(2, 1 + len(ends)) * beams, sums.shape[1]))
        parents, tokens = at // vocabulary, at % vocabulary
        texts = torch.cat([_taken(self.running, parents), tokens[:, :, None]], dim=2)
        stopped = torch.isin(tokens, ends) | (length + 1 >= self.last)
        for stop in stops:
            stopped |= stop(texts.flatten(0, 1), best).view_as(stopped)
        self._note_ended(texts, best / (length + 1 - self.first), stopped)
        self.scores, chosen = (best + stopped * _NEVER).topk(beams)
        self.running = _taken(texts, chosen)
        self.improves &= self._can_improve(length + 1 - self.first)
        self.goes_on = bool(self.improves.any()) and not bool(stopped.all())
        first = torch.arange(rows, device=at.device)[:, None] * beams
        return (first + parents.gather(1, chosen)).flatten()

    def best(self) -> Tensor:
        """Gives the best text of each row, [B, S]."""
        running = torch.full_like(self.ended[:, 0], int(self.ended[0, 0, -1]))
        running[:, : self.running.shape[2]] = self.running[:, 0]
        return torch.where(self.is_ended.any(dim=1)[:, None], self.ended[:, 0], running)

    def _note_ended(self, texts: Tensor, scores: Tensor, stopped: Tensor) -> None:
        """Keeps the best of those that ended before and those that end now among the K best."""
        beams = self.scores.shape[1]
        counts = stopped & (torch.arange(stopped.shape[1], device=stopped.device) < beams)
        scores = scores + ~counts * _NEVER + ~self.improves * _NEVER
        padded = self.ended[:, :1].expand(-1, texts.shape[1], -1).clone()
        padded[:] = int(self.ended[0, 0, -1])
        padded[:, :, : texts.shape[2]] = texts
        everything = torch.cat([self.ended_scores, scores], dim=1)
        self.ended_scores, at = everything.topk(beams)
        self.ended = _taken(torch.cat([self.ended, padded], dim=1), at)
        self.is_ended = torch.cat([self.is_ended, counts], dim=1).gather(1, at)

    def _can_improve(self, new: int) -> Tensor:
        """Whether the best text that is followed is better, so far, than the worst that ended, [B, 1]."""
        worst = torch.where(self.is_ended, self.ended_scores.amin(dim=1, keepdim=True), _NEVER)
        return (self.scores[:, :1] / new > worst).any(dim=1, keepdim=True)


def _taken(texts: Tensor, at: Tensor) -> Tensor:
    """Texts [B, N, S] at places [B, K] of dim 1."""
    return texts.gather(1, at[:, :, None].expand(-1, -1, texts.shape[2]))

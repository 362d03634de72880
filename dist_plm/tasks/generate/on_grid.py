"""Generation on tensor and pipeline ranks, token by token with a cache of keys and values."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dist_plm.data.loader.batch import Batch as Arrays
from dist_plm.models.sequence_context import KVCache
from dist_plm.tasks.generate.batches import Continuation, Decoding, PromptBatch
from dist_plm.tasks.generate.beams import Beams
from dist_plm.tasks.inference.runner import Runner


@dataclass(frozen=True, slots=True)
class GridWriter:
    """Writes with a model that ranks share. All of them do the same, each with its own part of the model.

    Args:
        both_ways: each token of a prompt sees all of it.
    """

    runner: Runner
    both_ways: bool = False

    @torch.no_grad()
    def write(self, batch: PromptBatch, decoding: Decoding) -> list[Continuation]:
        """Writes answers to all rows of a batch, one token after the other."""
        if decoding.num_beams > 1:
            return self._write_likeliest(batch, decoding)
        device, rows = self.runner.shared.device, len(batch.rows)
        read, mask = batch.padded(decoding.pad, left=decoding.start is None)
        tokens = read.to(device) if decoding.start is None else torch.full((rows, 1), decoding.start, device=device)
        given = _Given(read, mask, decoding.start is not None, self.both_ways)
        choosers, stops = batch.choosers(decoding), batch.stops(decoding)
        cache, ends = KVCache(tokens.shape[1] + batch.room), torch.tensor(decoding.ends, device=device)
        done = torch.zeros(rows, dtype=torch.bool, device=device)
        if batch.streamer is not None:
            batch.streamer.put(tokens.cpu())
        for _ in range(batch.room):
            chosen = torch.empty(rows, dtype=torch.int64, device=device)
            logits = self.runner.run(given.next(tokens.cpu(), cache.length), cache)
            if logits is not None:
                assert isinstance(logits, Tensor)
                chosen[:] = choosers(tokens, self.runner.whole_logits(logits)).argmax(-1)
            chosen = torch.where(done, decoding.pad, self.runner.from_last_stage(chosen))
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
            if batch.streamer is not None:
                batch.streamer.put(chosen.cpu())
            done |= torch.isin(chosen, ends)
            for stop in stops:
                done |= stop(tokens, None)
            if bool(done.all()):
                break
        if batch.streamer is not None:
            batch.streamer.end()
        return batch.written(tokens, decoding)

    def _write_likeliest(self, batch: PromptBatch, decoding: Decoding) -> list[Continuation]:
        """Does so with several beams a row, among which the last stage chooses."""
        device, beams = self.runner.shared.device, decoding.num_beams
        read, mask = batch.padded(decoding.pad, left=decoding.start is None)
        begun = read if decoding.start is None else torch.full((len(read), 1), decoding.start)
        followed = Beams.of(begun.to(device), beams, batch.room, decoding.pad)
        read, mask = (one.repeat_interleave(beams, dim=0) for one in (read, mask))
        given = _Given(read, mask, decoding.start is not None, self.both_ways)
        choosers, stops = batch.choosers(decoding), batch.stops(decoding)
        cache, ends = KVCache(begun.shape[1] + batch.room), torch.tensor(decoding.ends, device=device)
        tokens: Any = followed.flat  # choosers of Transformers are declared for its own kind of tensor
        told = torch.empty(3, len(tokens), dtype=torch.int64, device=device)
        for _ in range(batch.room):
            logits = self.runner.run(given.next(tokens.cpu(), cache.length), cache)
            if logits is not None:
                assert isinstance(logits, Tensor)
                likely = choosers(tokens, torch.log_softmax(self.runner.whole_logits(logits), dim=-1))
                told[0] = followed.extend(likely, ends, stops)
                told[1], told[2] = followed.flat[:, -1], int(followed.goes_on)
            parents, chosen, goes_on = self.runner.from_last_stage(told)
            tokens = torch.cat([tokens[parents], chosen[:, None]], dim=1)
            cache.reorder(parents)
            if not bool(goes_on[0]):
                break
        return batch.written(self.runner.from_last_stage(followed.best()), decoding)


class _Given:
    """Makes the model's input of the tokens that it has not read yet.

    Args:
        read: [B, S] of the prompts, and `mask` where they are no padding.
        has_encoder: they are read by an encoder; what is written stands alone.
        both_ways: else each of their tokens sees all of them.
    """

    def __init__(self, read: Tensor, mask: Tensor, has_encoder: bool, both_ways: bool) -> None:
        self._read, self._mask, self._has_encoder, self._both_ways = read, mask, has_encoder, both_ways

    def next(self, tokens: Tensor, past: int) -> Arrays:
        samples = torch.arange(len(tokens))
        fresh = tokens[:, past:]
        if self._has_encoder:
            arrays = {"tokens": self._read, "decoder_tokens": fresh, "samples": samples}
            return arrays if bool(self._mask.all()) else {**arrays, "lengths": self._mask.sum(1)}
        starts = (1 - self._mask).sum(1)
        columns = torch.arange(tokens.shape[1])
        arrays = {"tokens": fresh, "samples": samples}
        if self._both_ways:  # padding, which another mask hides from text, begins before it
            seen_from = torch.where(columns < self._read.shape[1], starts[:, None], columns)
            arrays["seen_from"] = torch.minimum(seen_from, columns)
        if bool(self._mask.all()):
            return arrays
        return {
            **arrays,
            "documents": (columns >= starts[:, None]).int(),
            "positions": (columns[past:] - starts[:, None]).clamp(min=0),
        }

"""Asks the model of a checkpoint about a few texts that are drawn, as whoever opens its export can be asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch import Tensor

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import Groups, alone, build_groups
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.distributed.world import init_process_group, leave
from dist_plm.interop.hf.base import Half
from dist_plm.models.build import build_chunk, model_context_of
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.electra import Electra
from dist_plm.models.encoder import MaskedLanguageModel
from dist_plm.models.loss_sums import Scores
from dist_plm.models.sharding import describe
from dist_plm.objectives.base import IGNORED
from dist_plm.spec.schema import ModelConfig, ParallelConfig, PrecisionConfig

#: Texts, their tokens, and of how many choices of a row one is right.
ROWS, LENGTH, CHOICES = 2, 32, 2
_SEED = 20_261_127
#: What a model says, by Hugging Face's names of it: of tokens or texts, of pairs, and of where an answer begins and ends.
SAID, PAIRS, STARTS, ENDS = "logits", "seq_relationship_logits", "start_logits", "end_logits"
#: And of a network without a head.
STATES = "last_hidden_state"


@dataclass(frozen=True, slots=True)
class AskedTexts:
    """Holds texts of drawn tokens, the shorter ones padded on the right.

    Args:
        tokens: [B, S].
        lengths: [B].
        segments: [B, S], of a model that tells pairs apart.
        written: [B, T], what a decoder beside an encoder reads.
    """

    tokens: Tensor
    lengths: Tensor
    segments: Tensor | None
    written: Tensor | None

    @classmethod
    def of(cls, model: ModelConfig, pad: int) -> "AskedTexts":
        """Draws texts for a model, always the same, without its token `pad` but in the padding."""
        assert model.vocab_size is not None
        rows = ROWS * (CHOICES if model.head == "choice" else 1)
        length = min(LENGTH, model.max_positions or LENGTH)
        draw = torch.Generator().manual_seed(_SEED)
        tokens, written = (torch.randint(model.vocab_size, (rows, length), generator=draw) for _ in range(2))
        tokens, written = (torch.where(one == pad, (pad + 1) % model.vocab_size, one) for one in (tokens, written))
        lengths = torch.tensor([length - number * length // (2 * rows) for number in range(rows)])
        places = torch.arange(length)
        segments = None
        if model.segments > 1 and model.is_encoder:
            segments = ((places >= length // 3) & (places < lengths[:, None])).long()
        return cls(
            tokens.masked_fill(places >= lengths[:, None], pad),
            lengths,
            segments,
            written[:, : -(-length // 2)] if model.has_decoder else None,
        )

    @property
    def places(self) -> Tensor:
        """Gives the places of tokens that are no padding, [N], in the order of the flattened [S, B]."""
        if self.written is not None:
            return torch.arange(self.written.numel())
        return self.attended.T.reshape(-1).nonzero()[:, 0]

    @property
    def attended(self) -> Tensor:
        """Gives 1 for tokens and 0 for padding, [B, S]."""
        return (torch.arange(self.tokens.shape[1]) < self.lengths[:, None]).long()

    @property
    def weights(self) -> Tensor:
        """Gives how much the hidden state of each token counts where they are compared as one vector of a text, [B, S]."""
        return self.attended / self.lengths[:, None]

    def of_tokens(self, values: Tensor) -> Tensor:
        """Picks of [B, S, …] what belongs to tokens, [N, …]."""
        return values.transpose(0, 1).flatten(0, 1)[self.places]


def logits_of(
    found: Checkpoint,
    model: ModelConfig,
    asked: AskedTexts,
    half: Half | None,
    dtype: torch.dtype,
    *,
    is_headless: bool = False,
) -> dict[str, Tensor]:
    """Runs the model of a checkpoint on this process's CPU, in fp32, its weights as `dtype` holds them.

    Args:
        model: finalised, with those heads that the checkpoint holds.
        half: of electra, that which is asked.
        is_headless: it is asked for hidden states, whatever heads there are.
    Returns:
        all that it says, by name: of tokens [N, …], of texts [B, …]; of a network without a head the mean hidden states [B, H].
    """
    model = replace(model, hidden_dropout=0.0, attention_dropout=0.0, max_positions=model.max_positions or LENGTH)
    with _one_process() as groups, torch.no_grad():
        chunk, lacks_head = _built(found, model, groups, dtype)
        batch: Batch = {"tokens": asked.tokens, "samples": torch.arange(len(asked.tokens)), "lengths": asked.lengths}
        if asked.segments is not None:
            batch["segments"] = asked.segments
        if not model.predicts_tokens:
            return _of_task(chunk, batch, asked)
        if half == "discriminator":
            assert isinstance(chunk, Electra)
            return {SAID: asked.of_tokens(chunk.judge(batch))}
        if lacks_head or is_headless:
            return {STATES: _tensor(chunk({**batch, "pooled": asked.weights}))}
        return {SAID: _of_tokens(chunk, batch, asked), **_of_pairs(chunk, batch)}


@contextmanager
def _one_process() -> Iterator[Groups]:
    device, timeout = alone().device, timedelta(minutes=1)
    init_process_group(LaunchEnv(), device, timeout)
    try:
        yield build_groups(Grid(), device, timeout=timeout)
    finally:
        leave()


def _built(found: Checkpoint, model: ModelConfig, groups: Groups, dtype: torch.dtype) -> tuple[ModelChunk, bool]:
    """Builds the model, and tells whether what predicts tokens has no weights there."""
    single, precision = ParallelConfig(data=1), PrecisionConfig(name="fp32")
    shared = model_context_of(model, single, precision, groups, groups.device.torch_device, seed=0)
    chunk, lacks_head = build_chunk(shared, 0, 1), False
    for shard_spec in describe([chunk], 0, 1):
        names = [shard.name for shard in shard_spec.shards]
        if all(name in found.weights for name in names):
            values = found.tensors.read(shard_spec, "weight")
            shard_spec.parameter.data.copy_(values.to(dtype))
        else:
            shard_spec.parameter.data.zero_()
            lacks_head |= any(name.startswith(("transform.", "output.")) for name in names)
    return chunk.eval(), lacks_head


def _tensor(said: Tensor | Scores) -> Tensor:
    assert isinstance(said, Tensor)
    return said


def _of_tokens(chunk: ModelChunk, batch: Batch, asked: AskedTexts) -> Tensor:
    """[N, V]."""
    vocab_size = chunk.shared.vocab_size
    if asked.written is not None:
        logits = _tensor(chunk({**batch, "decoder_tokens": asked.written}))[: asked.written.shape[1]]
        return logits[..., :vocab_size].flatten(0, 1)
    logits = _tensor(chunk({**batch, "positions_predicted": asked.places}))[..., :vocab_size]
    return logits if logits.dim() == 2 else logits.flatten(0, 1)[asked.places]


def _of_pairs(chunk: ModelChunk, batch: Batch) -> dict[str, Tensor]:
    """Gives what BERT says of pairs [B, 2], where it has learned to."""
    if not isinstance(chunk, MaskedLanguageModel) or chunk.pair is None:
        return {}
    unread = {"labels": torch.full_like(batch["tokens"], IGNORED), "pair_labels": torch.zeros_like(batch["lengths"])}
    return {PAIRS: _output(chunk({**batch, **unread}), "pair_labels")}


def _of_task(chunk: ModelChunk, batch: Batch, asked: AskedTexts) -> dict[str, Tensor]:
    """Gives the scores of a task's head: whatever the labels are that it is given to learn."""
    texts, tokens = torch.zeros_like(batch["lengths"]), torch.zeros_like(batch["tokens"])
    head = chunk.shared.model.head
    if head == "choice":
        return {SAID: _output(chunk({**batch, "choice_labels": texts[::CHOICES]}), "choice_labels")}
    if head == "sequence":
        return {SAID: _output(chunk({**batch, "class_labels": texts}), "class_labels")}
    if head == "tokens":
        return {SAID: asked.of_tokens(_output(chunk({**batch, "tags": tokens}), "tags"))}
    scores = chunk({**batch, "starts": texts, "ends": texts})
    return {STARTS: asked.of_tokens(_output(scores, "starts")), ENDS: asked.of_tokens(_output(scores, "ends"))}


def _output(scores: Tensor | Scores, name: str) -> Tensor:
    assert isinstance(scores, dict)
    outputs = scores[name].outputs
    assert outputs is not None
    return outputs

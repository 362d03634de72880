"""Random text in place of a store that is not here, in the form that an objective takes its samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.samples import Ints, Pairs, Sentences, Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import Objective
from dist_plm.objectives.build import build_objective
from dist_plm.objectives.checked import checked
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.train.data import RunData, form_of

#: Sentinels of T5's vocabulary, and tokens of a sentence.
_SENTINELS, _SENTENCE = 100, 24
_NAMED = ("[NLU]", "[S2S]", "[NLG]")


def stand_in(objective: ObjectiveConfig, model: ModelConfig, sequence_length: int, seed: int) -> RunData:
    """Opens random text, the same at every rank, of the size that the model's vocabulary has."""
    assert model.vocab_size is not None
    learned: Objective[Any] = build_objective(
        objective,
        _special_tokens(model.vocab_size),
        seed=seed,
        sequence_length=sequence_length,
        has_decoder=model.has_decoder,
    )
    form = form_of(objective, learned, sequence_length)
    second = form.with_second
    text = RandomText(model.vocab_size, form.window_length, form.source == "pairs", second, form.frame)
    return RunData(checked(objective, learned, sequence_length), {"train": text})


@dataclass(frozen=True, slots=True)
class RandomText:
    """See data.sampling.blend.Dataset."""

    vocab_size: int
    window_length: int
    pairs: bool
    second: bool
    frame: int
    num_windows: int = 2**40

    def read(self, samples: NDArray[np.int64]) -> Windows | Pairs:
        """Samples [B], drawn by their numbers alone."""
        if self.pairs:
            first, second = (self._sentences(samples, part) for part in range(2))
            return Pairs(first, second if self.second else None, samples)
        length = self.window_length + 1
        draws = [np.random.default_rng(int(sample)) for sample in samples]
        tokens = np.stack([draw.integers(0, self.vocab_size, length) for draw in draws])
        documents = np.stack([np.cumsum(draw.random(length) < 1 / 512) for draw in draws]).astype(np.int32)
        return Windows(tokens, documents, np.asarray(samples, dtype=np.int64), frame=self.frame)

    def _sentences(self, samples: NDArray[np.int64], part: int) -> Sentences:
        count = self.window_length // _SENTENCE + 1
        tokens = [
            np.random.default_rng([int(n), part]).integers(0, self.vocab_size, count * _SENTENCE) for n in samples
        ]
        ends: Ints = np.arange(1, count * len(samples) + 1) * _SENTENCE
        return Sentences(np.concatenate(tokens), ends, np.arange(len(samples) + 1) * count)

    def identity(self) -> str:
        return "random text"

    def describe(self) -> str:
        return "random text, as the store is not here"


def _special_tokens(vocab_size: int) -> SpecialTokens:
    """As many as any objective needs, at both ends of the vocabulary."""
    sentinels = tuple(range(vocab_size - 1, vocab_size - 1 - min(_SENTINELS, vocab_size // 4), -1))
    ids = (*range(8 + len(_NAMED)), *reversed(sentinels))
    named = {name: 8 + number for number, name in enumerate(_NAMED)}
    return SpecialTokens(
        vocab_size=vocab_size,
        ids=ids,
        continues=np.arange(vocab_size) % 4 == 0,
        pieces=[f"w{number}" for number in range(vocab_size)],
        pad=0,
        cls=1,
        sep=2,
        mask=3,
        eos=4,
        fim_prefix=5,
        fim_suffix=6,
        fim_middle=7,
        sentinels=sentinels,
        named=named,
    )

"""A model on a process grid as lm-evaluation-harness asks it (Gao et al. 2021, "A framework for few-shot language model
evaluation").

Imported only where the harness is installed.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from dist_plm.core.errors import CheckpointError, DataError
from dist_plm.distributed.collectives import gather
from dist_plm.objectives.base import IGNORED
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.tasks.evaluate.perplexity import Asked, ScoredRow, judge_rows
from dist_plm.tasks.evaluate.sliding_windows import windows_of_document
from dist_plm.tasks.generate.batches import batches_of
from dist_plm.tasks.generate.generate import decoding_of
from dist_plm.tasks.generate.on_grid import GridWriter
from dist_plm.tasks.generate.prompts import PromptRow
from dist_plm.tasks.inference.open_model import Session
from dist_plm.tasks.inference.runner import Runner

Question = TypeVar("Question")
Answer = TypeVar("Answer")

#: Of how a text is written, by the names of Transformers.
_WRITING = ("temperature", "top_k", "top_p", "num_beams", "repetition_penalty")
#: Tokens that are written at most, where a task does not say.
_MOST_WRITTEN = 256


class HarnessModel(TemplateLM):
    """Every rank holds one, and is asked the same in the same order. Each data rank answers its share, and all learn all
    answers: to the harness each rank is alone.

    A text is read as Transformers reads it: special tokens that are written out stand for themselves, and the tokenizer adds
    those of its own that its file says.

    Args:
        window: tokens that a pass sees.
    """

    def __init__(self, config: EvaluateConfig, session: Session, runner: Runner, window: int) -> None:
        super().__init__()
        self._config, self._session, self._runner = config, session, runner
        self._vocabulary, self._tokenizer = session.vocabulary, session.vocabulary.tokenizer
        special = self._vocabulary.special
        pad = next((token for token in (special.pad, special.mask) if token is not None), 0)
        self._asked = Asked(window, window, self._vocabulary.beginning, is_masked=False, pad=pad)

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.end_of_document_id

    @property
    def prefix_token_id(self) -> int:
        return self._vocabulary.beginning

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._tokenizer.decode([self.prefix_token_id]))
        return self._tokenizer.encode_as_transformers(string, framed=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Tells of each continuation its log-likelihood behind its context, and whether it is what would be written. What has
        no room before it is left out."""

        def row(number: int) -> ScoredRow:
            _, context, continuation = requests[number]
            tokens = np.array([*context, *continuation], dtype=np.int64)[-(self._asked.window + 1) :]
            labels = tokens[1:].copy()
            labels[: -len(continuation)] = IGNORED
            return ScoredRow(number, tokens[:-1], labels)

        for number, request in enumerate(requests):
            continuation = request[2]
            if not 0 < len(continuation) <= self._asked.window:
                raise DataError(
                    f"tasks = {self._names}: question {number:,} has an answer of {len(continuation):,} tokens, and a pass "
                    f"sees {self._asked.window:,}: it cannot be judged"
                )
        told = self._shared(range(len(requests)), lambda mine: self._judged(map(row, mine)))
        self._check_numbers(all(math.isfinite(loss) for loss, _, _ in told))
        return [(-loss, hits == count) for loss, hits, count in told]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Tells the log-likelihood of each text, whose tokens are each predicted once, in windows."""
        rows: list[ScoredRow] = []
        for number, request in enumerate(requests):
            tokens = np.array(self.tok_encode(request.args[0]), dtype=np.int64)
            windows = windows_of_document(tokens, self.prefix_token_id, self._asked.window, self._asked.stride)
            rows += [self._asked.causal_row(number, window) for window in windows]
        totals = [0.0] * len(requests)
        told = self._shared(rows, self._judged)
        self._check_numbers(all(math.isfinite(loss) for loss, _, _ in told))
        for row, (loss, _, _) in zip(rows, told, strict=True):
            totals[row.text] -= loss
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Writes on from each context, as the request says, and ends where it says."""
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        texts = [""] * len(requests)
        for numbers in alike.values():
            contexts, how = [requests[number].args[0] for number in numbers], requests[numbers[0]].args[1]
            for number, text in zip(numbers, self._written(contexts, how), strict=True):
                texts[number] = text
        return texts

    def _written(self, contexts: Sequence[str], how: Mapping[str, Any]) -> list[str]:
        settings: dict[str, Any] = dict(normalize_gen_kwargs(dict(how), _MOST_WRITTEN))
        end = self._tokenizer.decode([self.eot_token_id])
        until, most = handle_stop_sequences(settings.pop("until"), eos=end), settings.pop("max_gen_toks")
        room = self._asked.window - most
        if room < 1:
            raise DataError(
                f"tasks = {self._names} write {most:,} tokens, and a pass sees {self._asked.window:,}: no context has room"
            )
        config = self._writing(settings, until, most)
        decoding, writer = decoding_of(config, self._session), GridWriter(self._runner)

        def write(rows: Iterable[PromptRow]) -> list[str | None]:
            rows, found = list(rows), dict[int, str]()
            for batch in batches_of(rows, self._config.batch_size):
                for one in writer.write(batch, decoding):
                    found[one.row.number] = self._tokenizer.decode(one.tokens, keep_special=False)
            if decoding.broken.were_seen():
                return [None] * len(rows)
            return [postprocess_generated_text(found[row.number], until, None) for row in rows]

        prompts = [
            PromptRow(number, context, tuple(self.tok_encode(context)[-room:]), most)
            for number, context in enumerate(contexts)
        ]
        written = self._shared(prompts, write)
        self._check_numbers(all(text is not None for text in written))
        return [text for text in written if text is not None]

    def _writing(self, settings: dict[str, Any], until: Sequence[str], most: int) -> GenerateConfig:
        if not settings.pop("do_sample"):
            settings["temperature"] = 0.0
        if unknown := [name for name in settings if name not in _WRITING]:
            raise DataError(
                f"tasks = {self._names} ask for {', '.join(unknown)} in generation_kwargs, which nothing here does: leave it "
                f"out; known are {', '.join(_WRITING)}"
            )
        return GenerateConfig(max_new_tokens=most, stop=tuple(text for text in until if text), **settings)

    def _check_numbers(self, is_right: bool) -> None:
        """Raises CheckpointError where the model's scores are no numbers: any answer would be as good."""
        if not is_right:
            raise CheckpointError(
                f"{self._session.source.where} gives scores that are no numbers: its weights are finite, so numbers of its "
                "layers overflow; try precision=fp32, or a checkpoint from before its run diverged"
            )

    @property
    def _names(self) -> str:
        return ", ".join(self._config.tasks)

    def _judged(self, rows: Iterable[ScoredRow]) -> list[tuple[float, int, int]]:
        """Loss, hits and number of labels of each row."""
        rows = list(rows)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place].tokens))
        found: dict[int, tuple[float, int, int]] = {}
        for first in range(0, len(order), self._config.batch_size):
            places = order[first : first + self._config.batch_size]
            told = judge_rows([rows[place] for place in places], self._runner, self._asked)
            found |= dict(zip(places, zip(*told, strict=True), strict=True))
        return [found[place] for place in range(len(rows))]

    def _shared(
        self, questions: Sequence[Question], answer: Callable[[Iterable[Question]], Sequence[Answer]]
    ) -> list[Answer]:
        """All answers, in the order of the questions. Collective over all ranks; each data rank answers some."""
        groups = self._runner.groups
        mine = range(groups.coordinates.data, len(questions), groups.grid.data)
        answers = dict(zip(mine, answer(questions[number] for number in mine), strict=True))
        found: dict[int, Answer] = {}
        for part in gather(groups.world, answers if groups.is_first_of_model else dict[int, Answer]()):
            found |= part
        return [found[number] for number in range(len(questions))]

"""Declares extractive question answering: the span of a text that answers a question (SQuAD 1.1 and 2.0)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import Count
from dist_plm.spec.objectives.base import Head
from dist_plm.spec.tasks.base import Column, TaskConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case

#: `[CLS] question [SEP] text [SEP]`, and the second separator of RoBERTa.
_FRAME = 4
#: BERT's.
_STRIDE, _QUESTION = 128, 64


@dataclass(frozen=True, kw_only=True)
class QaConfig(TaskConfig):
    """The first and the last token of the answer are learned. A text that is too long is read in windows that begin
    `doc_stride` tokens apart (None: 128, or half a window where that is less), behind the first `max_question_length` tokens
    of the question (None: 64, or a quarter of a window), as in BERT's run_squad.py; windows without the answer learn the first
    token in its place.

    With `no_answer` questions may have none (SQuAD 2.0): there is none where the first token scores more than the best answer
    by `no_answer_threshold`. Answers have at most `max_answer_length` tokens; of each question the best `n_best` of all its
    windows are kept."""

    body: ClassVar[str] = "tasks.qa"
    told_of_long: ClassVar[str] = (
        "no window of {bound} = {most} tokens holds the whole answer, and none is learned to have it"
    )
    loss_terms: ClassVar[tuple[str, ...]] = ("start", "end")
    head: ClassVar[Head] = "span"
    columns: ClassVar[Mapping[str, Column]] = {
        "question": Column(("question", "query")),
        "context": Column(("context", "passage", "paragraph")),
        "answers": Column(("answers", "answer")),
        "id": Column(("id", "qid"), optional=True),
    }
    answer: ClassVar[str] = "answers"
    scoring: ClassVar[tuple[str, ...]] = ("context_at", "char_starts", "char_ends", "is_first", "about")
    measures: ClassVar[tuple[str, ...]] = (
        "f1",
        "exact_match",
        "has_answer_f1",
        "has_answer_exact_match",
        "no_answer_accuracy",
        "best_f1",
        "best_exact_match",
    )

    name: Literal["qa"] = "qa"
    doc_stride: Count | None = None
    max_question_length: Count | None = None
    max_answer_length: Count = 30
    n_best: Count = 20
    no_answer: bool = False
    no_answer_threshold: float = 0.0

    @property
    def num_labels(self) -> int:
        return 2

    @property
    def measured(self) -> tuple[str, ...]:
        return ("loss", *(self.measures if self.no_answer else self.measures[:2]))

    @property
    def told_of_measures(self) -> str:
        return "" if self.no_answer else " with task.no_answer = false"

    def room(self, length: int) -> int:
        """Tokens of text in a window of `length` tokens behind the longest question."""
        return length - self.question_length(length) - _FRAME

    def question_length(self, length: int) -> int:
        """Tokens of a question that stay in a window of `length` tokens."""
        return self.max_question_length or min(_QUESTION, max(length // 4, 1))

    def stride(self, length: int) -> int:
        """Tokens from the beginning of a window of `length` tokens to that of the next."""
        return self.doc_stride or min(_STRIDE, max(self.room(length) // 2, 1))

    def problems(self, case: "Case") -> Iterator[str]:
        length = case.config.data.sequence_length
        room, question = self.room(length), f"task.max_question_length = {self.question_length(length)}"
        if room < 2:
            yield (
                f"data.sequence_length = {length} has no room for a text behind a question of {question}: raise the one, to "
                "384 as is usual, or lower the other"
            )
        elif room < self.stride(length):
            yield (
                f"task.doc_stride = {self.doc_stride} leaves tokens out between windows: data.sequence_length = {length} has "
                f"room for {room} behind a question of {question}; lower task.doc_stride or raise data.sequence_length"
            )
        if self.no_answer_threshold != 0.0 and not self.no_answer:
            yield f"task.no_answer_threshold = {self.no_answer_threshold:g} has no effect without task.no_answer=true"

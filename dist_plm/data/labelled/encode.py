"""Turns texts into the tokens that a model reads: framed by special tokens, and cut to a length."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dist_plm.data.labelled.question_windows import QuestionWindows, trimmed, window_bounds
from dist_plm.data.labelled.table import Ragged
from dist_plm.data.tokenizers.tokenizer import Tokenizer

#: Segments are framed by two separators where a text begins with this token: RoBERTa and its kin.
_BEGINS_ROBERTA = "<s>"


@dataclass(frozen=True, slots=True)
class ExampleEncoder:
    """Encodes as Transformers' tokenizers of the family do: `[CLS] a [SEP] b [SEP]` of BERT, `<s> a </s></s> b </s>` of
    RoBERTa, and `a b` where a vocabulary has no such tokens. Of a pair that is too long the longer text loses its end first.

    Args:
        length: tokens of a row at most.
        has_decoder: the model writes what is predicted with a decoder of its own.
        by_likelihood: labels and choices are texts whose likelihood the model tells.
    """

    tokenizer: Tokenizer
    length: int
    has_decoder: bool = False
    by_likelihood: bool = False

    def texts(self, first: Sequence[str], second: Sequence[str] | None = None) -> dict[str, Ragged]:
        """Gives `tokens` of one text or a pair for each row and, of pairs, `segments`."""
        begin, between, end = self._frame()
        room = self.length - len(begin) - len(end)
        one = [list(ids) for ids in self.tokenizer.encode_batch(first)]
        if second is None:
            return {"tokens": Ragged.of([[*begin, *ids[:room], *end] for ids in one])}
        room -= len(between)
        rows, segments = [], []
        for a, b in zip(one, self.tokenizer.encode_batch(second), strict=True):
            size_a, size_b = cut_pair(len(a), len(b), room)
            head = [*begin, *a[:size_a], *between]
            # Of the separators between two texts the first belongs to the first text.
            rest = [*b[:size_b], *end]
            rows.append(head + rest)
            segments.append([0] * len(head) + [1] * len(rest))
        return {"tokens": Ragged.of(rows), "segments": Ragged.of(segments, np.int8)}

    def sources(self, first: Sequence[str], second: Sequence[str] | None = None) -> list[list[int]]:
        """Gives what an encoder reads before its decoder writes: a text or a pair, and the token that ends texts. Of a pair
        that is too long the longer text loses its end first."""
        room, one = self.length - 1, self.pieces(first)
        if second is None:
            return [[*ids[:room], self.end] for ids in one]
        rows = []
        for a, b in zip(one, self.pieces(second), strict=True):
            size_a, size_b = cut_pair(len(a), len(b), room)
            rows.append([*a[:size_a], *b[:size_b], self.end])
        return rows

    def words(self, rows: Sequence[Sequence[str]]) -> tuple[Ragged, Ragged]:
        """Gives the tokens of rows of words, and at each the number of the word that it begins, or -1."""
        begin, _, end = self._frame()
        pieces = iter(self.tokenizer.encode_batch([self.space + word for row in rows for word in row]))
        tokens, starts = [], []
        for row in rows:
            ids, numbers = list(begin), [-1] * len(begin)
            for number, _ in enumerate(row):
                piece = next(pieces)
                ids += piece
                numbers += [number, *[-1] * (len(piece) - 1)] if len(piece) else []
            room = self.length - len(end)
            tokens.append([*ids[:room], *end])
            starts.append([*numbers[:room], *[-1] * len(end)])
        return Ragged.of(tokens), Ragged.of(starts)

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Gives the tokens of each text alone."""
        return [list(ids) for ids in self.tokenizer.encode_batch(texts)]

    def ragged(self, rows: Sequence[Sequence[int]]) -> Ragged:
        """Joins rows of tokens to a column."""
        return Ragged.of(rows)

    def marked(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Gives the tokens of a text in which special tokens that are written out stand for themselves, and the characters,
        [begin, end), that each of them stands for."""
        return self.tokenizer.encode_marked(text)

    @property
    def special_ids(self) -> Collection[int]:
        """Gives the numbers of special tokens."""
        return self.tokenizer.special_tokens().ids

    @property
    def special_texts(self) -> Collection[str]:
        """Gives special tokens as they are written."""
        pieces = self.tokenizer.pieces()
        return [pieces[number] for number in self.special_ids if pieces[number]]

    @property
    def special_names(self) -> Mapping[str, str]:
        """Gives special tokens as they are written, by the names that chat templates use."""
        special, pieces = self.tokenizer.special_tokens(), self.tokenizer.pieces()
        eos = self.tokenizer.end_of_document_id if special.eos is None else special.eos
        numbers = {
            "bos": eos if special.bos is None else special.bos,
            "eos": eos,
            "pad": special.pad,
            "sep": special.sep,
        }
        return {f"{role}_token": pieces[number] for role, number in numbers.items() if number is not None}

    @property
    def space(self) -> str:
        """Gives what stands before a word within a text, where the vocabulary does not set it there itself."""
        return " " if self.tokenizer.special_tokens().pieces_style == "byte_level" else ""

    @property
    def begin(self) -> list[int]:
        """Gives what texts begin with that a decoder alone continues: a token for it, where there is one."""
        special = self.tokenizer.special_tokens()
        first = special.cls if special.bos is None else special.bos
        return [] if first is None else [first]

    @property
    def end(self) -> int:
        """Gives the token that ends what is written."""
        eos = self.tokenizer.special_tokens().eos
        return eos if self.has_decoder and eos is not None else self.tokenizer.end_of_document_id

    @property
    def start(self) -> int:
        """Gives the token with which a decoder beside an encoder begins: T5's is its padding."""
        return self.padding

    def windows(
        self, questions: Sequence[str], contexts: Sequence[str], question_length: int, stride: int
    ) -> QuestionWindows:
        """Gives windows of the contexts, `stride` tokens apart, each behind the first `question_length` tokens of its question,
        framed as pairs are."""
        begin, between, end = self._frame()
        asked = self.tokenizer.encode_batch([question.lstrip() for question in questions])
        tokens, segments, offsets, numbers, read = [], [], [], [], {}
        for row, (question, context) in enumerate(zip(asked, contexts, strict=True)):
            if context not in read:  # questions about one text follow each other
                ids, places = self.tokenizer.encode_with_offsets(context)
                read = {context: (ids.tolist(), trimmed(context, places))}
            ids, places = read[context]
            head = [*begin, *question[:question_length], *between]
            for first, last in window_bounds(len(ids), self.length - len(head) - len(end), stride):
                rest = [*ids[first:last], *end]
                tokens.append(head + rest)
                segments.append([0] * len(head) + [1] * len(rest))
                numbers.append((row, first, len(head)))
                offsets.append(places[first:last])
        starts, ends = (Ragged.of([places[:, side] for places in offsets]) for side in (0, 1))
        rows, firsts, at = np.array(numbers, dtype=np.int64).T
        return QuestionWindows(Ragged.of(tokens), Ragged.of(segments, np.int8), rows, firsts, at, starts, ends)

    @property
    def has_frame(self) -> bool:
        """Whether texts have a first token of their own."""
        return bool(self._frame()[0])

    @property
    def padding(self) -> int:
        """The token that rows are filled up with, which nothing reads."""
        special = self.tokenizer.special_tokens()
        return special.pad if special.pad is not None else self.tokenizer.end_of_document_id

    def _frame(self) -> tuple[list[int], list[int], list[int]]:
        special = self.tokenizer.special_tokens()
        if special.cls is None or special.sep is None:
            return [], [], []
        doubled = self.tokenizer.pieces()[special.cls] == _BEGINS_ROBERTA
        return [special.cls], [special.sep] * (2 if doubled else 1), [special.sep]


def cut_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens stay of each text of a pair, as `longest_first` of the library `tokenizers` cuts."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    return (long, short) if first > second else (short, long)

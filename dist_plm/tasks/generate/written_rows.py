"""Has the model of a fine-tuning run write while it is evaluated: what tells which checkpoint is best is then what it says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.distributed.collectives import gather
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.models.model_context import whole_sequences
from dist_plm.objectives.build import build_writing_task
from dist_plm.objectives.metrics.text_overlap import TextScores
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.spec.schema import TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.spec.tasks.base import WritingConfig
from dist_plm.tasks.generate.batches import Continuation, Decoding, PromptBatch, batches_of
from dist_plm.tasks.generate.on_grid import GridWriter
from dist_plm.tasks.generate.prompts import PromptRow, room_for, shortened
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.vocabulary import Vocabulary
from dist_plm.train.labelled import columns_of


def text_measures(config: TrainingConfig, groups: Groups) -> "WrittenRows | None":
    """Builds what measures answers to the validation rows of a finalised run; None where it does not ask for that.

    Raises:
        DataError: a row cannot be used.
    """
    if not isinstance(config, FinetuneConfig) or not config.writes_when_evaluated:
        return None
    task, data, model = config.task, config.data, config.model
    assert isinstance(task, WritingConfig)
    assert data.validation is not None
    assert data.tokenizer is not None
    assert config.train.micro_batch is not None
    file = RowFile("data.validation", data.validation, "validation", data.header, task.written_rows)
    body, columns = build_writing_task(task), columns_of(file, task, data.columns)
    known = [(number, row.place, *body.pair(row, columns)) for number, row in enumerate(file)]
    answered = [one for one in known if one[3] is not None]
    if not answered:
        raise DataError(
            f"data.validation = {data.validation} holds no dialogue that ends with the assistant, so that no answer can be "
            "measured: give others, or leave task.measure_writing and measures of texts out"
        )
    encoder = ExampleEncoder(Tokenizer.load(data.tokenizer), data.sequence_length, model.has_decoder)
    longest = task.longest_answer(data.sequence_length, has_decoder=model.has_decoder)
    asked = GenerateConfig(max_new_tokens=longest)
    prompts = body.prompts([question for _, _, question, _ in answered], encoder)
    rows = []
    for (number, place, _, _), whole in zip(answered, prompts, strict=True):
        tokens = shortened(whole[-encoder.length :], asked.max_new_tokens, model)
        rows.append(PromptRow(number, "", tokens, room_for(place, len(tokens), asked, model)))
    end = encoder.tokenizer.end_of_document_id
    ends = tuple(dict.fromkeys((end, encoder.end, *body.ends(encoder))))
    vocabulary = Vocabulary(encoder.tokenizer, end, begins_texts=False, ends=ends, where=data.tokenizer)
    decoding = Decoding(asked, vocabulary, ends, encoder.padding, encoder.start if model.has_decoder else None)
    both_ways = task.reads_prefix_both_ways and not model.has_decoder
    targets = [str(answer) for *_, answer in answered]
    scores = partial(TextScores.split_by, task.bleu_tokenizer)
    return WrittenRows(rows, targets, decoding, groups, config.train.micro_batch, scores, both_ways)


@dataclass(frozen=True, slots=True)
class WrittenRows:
    """Answers rows with the model of an engine. See train.evaluation.TextMeasures.

    Args:
        rows: those that hold an answer, by their numbers among all.
        targets: what should be said of each of the `rows`.
        batch_size: rows that a data rank answers at once.
        scores: builds what measures texts.
        both_ways: each token of a prompt sees all of it.
    """

    rows: Sequence[PromptRow]
    targets: Sequence[str]
    decoding: Decoding
    groups: Groups
    batch_size: int
    scores: Callable[[], TextScores]
    both_ways: bool = False

    def __call__(self, engine: Engine, between: Callable[[], None]) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        place, size = self.groups.coordinates, self.groups.grid
        written: list[Continuation] = []
        with engine.lend() as lent, whole_sequences(one for chunk in lent.chunks for one in chunk.modules()):
            writer = GridWriter(Runner(lent.chunks, self.groups, lent.chunks[0].shared), self.both_ways)
            shares = 1 if lent.together else size.data
            batches = [self._batches(share, shares) for share in range(shares)]
            mine = batches[place.data % shares]
            for turn in range(max(map(len, batches))):
                if turn < len(mine):
                    written += writer.write(mine[turn], self.decoding)
                between()
        speaks = self.groups.is_first_of_model and place.data < shares
        told = [(one.row.number, one.text.strip()) for one in written] if speaks else []
        texts = dict(pair for part in gather(self.groups.world, told) for pair in part)
        scores, lines = self.scores(), []
        for row, target in zip(self.rows, self.targets, strict=True):
            scores.add(texts[row.number], target)
            lines.append({"row": row.number, "target": target, "prediction": texts[row.number]})
        return scores.measures(), {"predictions.jsonl": lines}

    def _batches(self, share: int, shares: int) -> list[PromptBatch]:
        return list(batches_of(self.rows[share::shares], self.batch_size))

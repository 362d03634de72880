"""Declares what launch/evaluate.py measures, by the names that `on` has: what each reads, and what it has no use for."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from dist_plm.config.decode import show
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import header_problems, no_effect, split_problems

if TYPE_CHECKING:
    from dist_plm.spec.inference.schema import EvaluateConfig

#: What is measured of labels that a probe tells, and of documents.
OF_PROBES = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews")
OF_TEXTS = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
#: What says which text is read, and how.
_OF_TEXT = ("path", "text", "split", "shares", "column", "document")
#: What says how a model writes, and what is measured of it.
_OF_WRITING = ("max_new_tokens", "num_beams", "bleu_tokenizer", "predictions")


class Measurement:
    """Says what one choice of `on` asks of the rest of the settings.

    Attributes:
        told_as: names the results in trackers.
        runs_model: it is told of a model; else of text alone.
        asks_heads: a model will do that predicts something else than tokens.
        asks_task: it is asked what it was fine-tuned for.
        makes_vectors: hidden states of a row become one vector.
        asks_harness: tasks of lm-evaluation-harness ask it.
    """

    name: ClassVar[str]
    told_as: ClassVar[str]
    runs_model: ClassVar[bool] = True
    asks_heads: ClassVar[bool] = False
    asks_task: ClassVar[bool] = False
    makes_vectors: ClassVar[bool] = False
    asks_harness: ClassVar[bool] = False

    def data_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        """Yields a sentence for each thing wrong with what is read."""
        raise NotImplementedError

    def protocol_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        """Yields a sentence for each thing wrong with how it is measured."""
        raise NotImplementedError

    def measured(self, objective: ObjectiveConfig, *, pseudo: bool) -> Iterator[str]:
        """Names what a run of pretraining measures by it at intervals, where it can.

        Args:
            objective: by which the run learns.
            pseudo: the model masks what it is asked.
        """
        raise NotImplementedError


def _text_problems(config: "EvaluateConfig") -> Iterator[str]:
    data = config.data
    unread = ("rows", "train_rows", "columns", "header")
    yield from no_effect(data, "data", unread, f"on = {show(config.on)}, which reads text")
    if data.path is None and data.text is None:
        yield (
            "there is nothing to read: give data.path=STORE with data.split=test, or text files with data.text=FILES, as in "
            "data.text='texts/*.txt'"
        )
    elif data.path is not None and data.text is not None:
        yield f"data.path = {show(data.path)} and data.text = {show(data.text)} are both given: keep one"
    yield from path_problems("data.path", data.path)
    yield from path_problems("data.text", data.text)
    yield from split_problems("data.shares", data.shares)
    if data.text is None:
        yield from no_effect(data, "data", ("column", "document"), "data.path, a store, whose documents are made")
    else:
        yield from no_effect(data, "data", ("split", "shares"), "data.text, of which all is read")


class Perplexity(Measurement):
    """Declares the perplexity of documents."""

    name = "perplexity"
    told_as = "texts"

    def data_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        yield from _text_problems(config)

    def protocol_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        yield from no_effect(config, "", _OF_WRITING, f"on = {show(config.on)}, for which nothing is written")
        yield from no_effect(config, "", ("seed",), f"on = {show(config.on)}, which draws nothing")
        if config.window is not None and config.stride is not None and config.stride > config.window:
            yield f"stride = {config.stride} exceeds window = {config.window}, so that tokens would be left out: lower stride"

    def measured(self, objective: ObjectiveConfig, *, pseudo: bool) -> Iterator[str]:
        yield from ("loss", "accuracy")
        yield from (f"{'pseudo_' if pseudo else ''}{measure}" for measure in OF_TEXTS)


class ObjectiveLosses(Measurement):
    """Declares the losses that a model learned by."""

    name = told_as = "objective"

    def data_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        yield from _text_problems(config)

    def protocol_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        yield from no_effect(config, "", _OF_WRITING, f"on = {show(config.on)}, for which nothing is written")
        names = ("window", "stride", "documents", "samples")
        yield from no_effect(config, "", names, "on = 'objective', which reads windows as training does")
        if config.data.text is not None:
            yield (
                "on = 'objective' reads a store as training does: prepare the text with launch/prepare_data.py, or measure "
                "on=perplexity"
            )

    def measured(self, objective: ObjectiveConfig, *, pseudo: bool) -> Iterator[str]:
        yield from objective.measured


class TaskRows(Measurement):
    """Declares what a model that was fine-tuned makes of labelled rows."""

    name = told_as = "task"
    asks_heads = asks_task = True

    def data_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        data = config.data
        if data.rows is None:
            yield "there is nothing to read: on = 'task' reads labelled rows, as in data.rows=test.jsonl"
        yield from path_problems("data.rows", data.rows)
        yield from no_effect(data, "data", (*_OF_TEXT, "train_rows"), "on = 'task', which reads data.rows")
        yield from header_problems(data.header, (data.rows,))

    def protocol_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        names = ("stride", "documents", "seed")
        yield from no_effect(config, "", names, "on = 'task', which reads rows as training does")
        yield from path_problems("predictions", config.predictions, made=True)


class Probing(Measurement):
    """Declares what a linear probe learns from hidden states."""

    name = told_as = "probe"
    asks_heads = makes_vectors = True

    def data_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        data = config.data
        yield from no_effect(data, "data", _OF_TEXT, "on = 'probe', which reads data.rows")
        for name, what in (("train_rows", "learns from"), ("rows", "is measured on")):
            if getattr(data, name) is None:
                yield f"data.{name} is missing: give the labelled rows that the probe {what}, as in data.{name}=FILE.jsonl"
            yield from path_problems(f"data.{name}", getattr(data, name))
        if data.rows is not None and data.rows == data.train_rows:
            yield (
                f"data.rows = {show(data.rows)} is data.train_rows as well, and nothing would be told of other rows: give "
                "others"
            )
        yield from header_problems(data.header, (data.train_rows, data.rows))

    def protocol_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        yield from no_effect(config, "", _OF_WRITING, f"on = {show(config.on)}, for which nothing is written")
        names = ("window", "stride", "documents", "samples", "seed")
        yield from no_effect(config, "", names, "on = 'probe', which reads rows as fine-tuning does")

    def measured(self, objective: ObjectiveConfig, *, pseudo: bool) -> Iterator[str]:
        yield from OF_PROBES


class Contamination(Measurement):
    """Declares how much of a set stands in the training text."""

    name = told_as = "contamination"
    runs_model = False

    def data_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        data = config.data
        given = [name for name in ("path", "text", "rows") if getattr(data, name) is not None]
        if len(given) != 1:
            what = (
                " and ".join(f"data.{name}" for name in given) + " are given: keep one"
                if given
                else "there is nothing to read"
            )
            yield f"{what}; a set is data.path=STORE with data.split=test, data.text=FILES or data.rows=FILE"
        for name in given:
            yield from path_problems(f"data.{name}", getattr(data, name))
        yield from no_effect(
            data, "data", ("train_rows", "columns"), "on = 'contamination', which reads all that is text"
        )
        yield from header_problems(data.header, (data.path, data.text, data.rows))

    def protocol_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        names = ("window", "stride", "documents", "pooling", *_OF_WRITING, "seed")
        yield from no_effect(config, "", names, "on = 'contamination', which runs no model")


class Harness(Measurement):
    """Declares what tasks of lm-evaluation-harness ask."""

    name = told_as = "lm_eval"
    asks_harness = True

    def data_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        unread = (*_OF_TEXT, "rows", "train_rows", "columns", "header", "against")
        yield from no_effect(config.data, "data", unread, "on = 'lm_eval', whose tasks know their data")
        if not config.tasks:
            yield "there is nothing to ask: on = 'lm_eval' asks tasks by name, as in tasks=[lambada_openai,arc_easy]"
        yield from path_problems("task_folder", config.task_folder)

    def protocol_problems(self, config: "EvaluateConfig") -> Iterator[str]:
        names = ("stride", "documents", "samples", "pooling", *_OF_WRITING, "seed")
        yield from no_effect(config, "", names, "on = 'lm_eval', whose tasks say how they ask")


#: By the names that `on` has.
MEASUREMENTS: Mapping[str, Measurement] = {
    one.name: one for one in (Perplexity(), ObjectiveLosses(), TaskRows(), Probing(), Contamination(), Harness())
}

"""Checks what launch/evaluate.py and launch/generate.py are asked for, before a model is opened."""

import re
from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.spec.inference.evaluations import EvaluationDataConfig
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig, InferenceConfig
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.rules.training import split_problems

#: Names of sets, of which names of measures are made.
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Begin the names of what runs measure of their validation samples.
_TAKEN = ("initial", "loss", "accuracy", "perplexity")
#: What says how a model writes, and what is measured of it.
_OF_WRITING = ("max_new_tokens", "num_beams", "bleu_tokenizer", "predictions")
#: What says which text is read, and how.
_OF_TEXT = ("path", "text", "split", "shares", "column", "document")


def _model(config: InferenceConfig) -> Iterator[str]:
    if isinstance(config, EvaluateConfig) and config.on == "contamination":
        yield from _training_text(config)
        return
    if config.from_ is None or not config.from_.strip():
        yield "from is missing: give the path of a run, of a checkpoint or of a directory of Hugging Face, as in from=runs/gpt"
        return
    yield from path_problems("from", config.from_, url="read")
    yield from path_problems("tokenizer", config.tokenizer)
    yield from path_problems("out", config.out, made=True)


def _training_text(config: EvaluateConfig) -> Iterator[str]:
    against = config.data.against
    if config.from_ is None and against is None:
        yield "from is missing: give a run, whose training text is compared with, or a store, as in data.against=corpus/mine"
    elif config.from_ is not None and against is not None:
        yield f"from and data.against = {show(against)} both name training text: keep one"
    yield from path_problems("from", config.from_, url="read")
    yield from path_problems("data.against", against)
    yield from path_problems("out", config.out, made=True)
    yield from no_effect(
        config, "", ("tokenizer", "batch_size", "parallel", "trackers"), "on = 'contamination', which runs no model"
    )


def _grid(config: InferenceConfig) -> Iterator[str]:
    reason = "a model that does not train"
    yield from no_effect(config.parallel, "parallel", ("virtual_pipeline",), reason)
    if config.parallel.tensor == 1:
        yield from no_effect(config.parallel, "parallel", ("sequence_parallel",), "parallel.tensor = 1")
    precision = config.precision
    names = ("initial_loss_scale", "min_loss_scale", "loss_scale_window", "loss_scale_hysteresis", "reduce_in_fp32")
    yield from no_effect(precision, "precision", names, reason)
    if precision.weights != "fp32":
        yield from no_effect(precision, "precision", ("tf32",), f"precision.name = {precision.name!r}")
    if precision.in_8_bits:
        yield "precision.name = 'fp8' is for training: choose precision=bf16 or fp32"


def _data(config: EvaluateConfig) -> Iterator[str]:
    data = config.data
    if config.on == "lm_eval":
        yield from _tasks_of_harness(config)
        return
    if config.on != "task" and config.task is not None:
        yield f"task = {config.task.name!r} has no effect with on = {show(config.on)}: leave it out, or measure on=task"
    of_harness = ("tasks", "task_folder", "num_fewshot")
    yield from no_effect(config, "", of_harness, f"on = {show(config.on)}, which asks no task of lm-evaluation-harness")
    if config.on == "contamination":
        yield from _set_compared(data)
        return
    yield from no_effect(data, "data", ("against",), f"on = {show(config.on)}, which compares with no training text")
    if config.on == "task":
        if data.rows is None:
            yield "there is nothing to read: on = 'task' reads labelled rows, as in data.rows=test.jsonl"
        yield from path_problems("data.rows", data.rows)
        yield from no_effect(data, "data", (*_OF_TEXT, "train_rows"), "on = 'task', which reads data.rows")
        return
    if config.on == "probe":
        yield from _rows_of_probe(data)
        return
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


def _tasks_of_harness(config: EvaluateConfig) -> Iterator[str]:
    unread = (*_OF_TEXT, "rows", "train_rows", "columns", "header", "against")
    yield from no_effect(config.data, "data", unread, "on = 'lm_eval', whose tasks know their data")
    if not config.tasks:
        yield "there is nothing to ask: on = 'lm_eval' asks tasks by name, as in tasks=[lambada_openai,arc_easy]"
    yield from path_problems("task_folder", config.task_folder)


def _set_compared(data: EvaluationDataConfig) -> Iterator[str]:
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
    yield from no_effect(data, "data", ("train_rows", "columns"), "on = 'contamination', which reads all that is text")


def _rows_of_probe(data: EvaluationDataConfig) -> Iterator[str]:
    yield from no_effect(data, "data", _OF_TEXT, "on = 'probe', which reads data.rows")
    for name, what in (("train_rows", "learns from"), ("rows", "is measured on")):
        if getattr(data, name) is None:
            yield f"data.{name} is missing: give the labelled rows that the probe {what}, as in data.{name}=FILE.jsonl"
        yield from path_problems(f"data.{name}", getattr(data, name))
    if data.rows is not None and data.rows == data.train_rows:
        yield f"data.rows = {show(data.rows)} is data.train_rows as well, and nothing would be told of other rows: give others"


def _protocol(config: EvaluateConfig) -> Iterator[str]:
    if config.on == "contamination":
        names = ("window", "stride", "documents", "pooling", *_OF_WRITING, "seed")
        yield from no_effect(config, "", names, "on = 'contamination', which runs no model")
        return
    yield from no_effect(config, "", ("ngram",), f"on = {show(config.on)}, which compares with no training text")
    if config.on == "lm_eval":
        names = ("stride", "documents", "samples", "pooling", *_OF_WRITING, "seed")
        yield from no_effect(config, "", names, "on = 'lm_eval', whose tasks say how they ask")
        return
    if config.on != "probe":
        reason = f"on = {show(config.on)}, which makes no vectors of rows"
        yield from no_effect(config, "", ("pooling",), reason)
    if config.on == "task":
        names = ("stride", "documents", "seed")
        yield from no_effect(config, "", names, "on = 'task', which reads rows as training does")
        yield from path_problems("predictions", config.predictions, made=True)
        return
    names = _OF_WRITING
    yield from no_effect(config, "", names, f"on = {show(config.on)}, for which nothing is written")
    if config.on == "probe":
        names = ("window", "stride", "documents", "samples", "seed")
        yield from no_effect(config, "", names, "on = 'probe', which reads rows as fine-tuning does")
        return
    if config.on == "objective":
        names = ("window", "stride", "documents", "samples")
        yield from no_effect(config, "", names, "on = 'objective', which reads windows as training does")
        if config.data.text is not None:
            yield (
                "on = 'objective' reads a store as training does: prepare the text with launch/prepare_data.py, or measure "
                "on=perplexity"
            )
        return
    yield from no_effect(config, "", ("seed",), f"on = {show(config.on)}, which draws nothing")
    if config.window is not None and config.stride is not None and config.stride > config.window:
        yield f"stride = {config.stride} exceeds window = {config.window}, so that tokens would be left out: lower stride"


def _tracking(config: EvaluateConfig) -> Iterator[str]:
    if not config.trackers:
        yield from no_effect(config, "", ("name",), "trackers = false, by which no tracker gets results")
    elif config.name is not None and (config.name in _TAKEN or not SET_NAME.fullmatch(config.name)):
        yield (
            f"name = {show(config.name)} is not allowed: use letters, digits, and . _ - between them, and none of "
            f"{', '.join(_TAKEN)}, which the run's own measures have"
        )


def _prompts(config: GenerateConfig) -> Iterator[str]:
    if config.talks:
        yield from no_effect(
            config, "", ("out", "samples"), "chat = true without a prompt, which talks in the terminal"
        )
    elif config.prompt is None and config.prompts is None:
        yield 'there is no prompt: give one, as in prompt="To be", or a file, as in prompts=prompts.txt out=answers.jsonl'
    elif config.prompt is not None and config.prompts is not None:
        yield "prompt and prompts are both given: keep one"
    yield from path_problems("prompts", config.prompts)
    if config.prompts is None:
        yield from no_effect(config, "", ("column",), "prompt, which is text")
    if any(not text for text in config.stop):
        yield f"stop = {show(config.stop)} holds an empty text, which would end all at once: leave it out"


def _sampling(config: GenerateConfig) -> Iterator[str]:
    if config.temperature == 0:
        reason = "temperature = 0, which takes the most likely token: give temperature=1 to draw one"
        for name in ("top_k", "top_p", "samples", "seed"):
            if getattr(config, name) != getattr(GenerateConfig(), name):
                yield f"{name} = {show(getattr(config, name))} has no effect with {reason}"
    elif config.num_beams > 1:
        yield (
            f"num_beams = {config.num_beams} looks for the most likely text, temperature = {config.temperature:g} draws one: "
            "leave out one of them"
        )


#: Of what is measured, of whatever model.
MEASURING_RULES: tuple[Callable[[EvaluateConfig], Iterator[str]], ...] = (_data, _protocol)
EVALUATE_RULES: tuple[Callable[[EvaluateConfig], Iterator[str]], ...] = (_model, _grid, *MEASURING_RULES, _tracking)
GENERATE_RULES: tuple[Callable[[GenerateConfig], Iterator[str]], ...] = (_model, _grid, _prompts, _sampling)

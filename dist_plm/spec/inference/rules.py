"""Checks what launch/evaluate.py and launch/generate.py are asked for, before a model is opened."""

import re
from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig, InferenceConfig
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import no_effect

#: Names of sets, of which names of measures are made.
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Begin the names of what runs measure of their validation samples.
_TAKEN = ("initial", "loss", "accuracy", "perplexity")


def _model(config: InferenceConfig) -> Iterator[str]:
    if isinstance(config, EvaluateConfig) and not config.measurement.runs_model:
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
    yield from no_effect(config.parallel, "parallel", ("virtual_pipeline", "context", "expert"), reason)
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
    measurement, on = config.measurement, f"on = {show(config.on)}"
    if not measurement.asks_task and config.task is not None:
        yield f"task = {config.task.name!r} has no effect with {on}: leave it out, or measure on=task"
    if not measurement.asks_harness:
        of_harness = ("tasks", "task_folder", "num_fewshot")
        yield from no_effect(config, "", of_harness, f"{on}, which asks no task of lm-evaluation-harness")
    if measurement.runs_model and not measurement.asks_harness:
        yield from no_effect(config.data, "data", ("against",), f"{on}, which compares with no training text")
    yield from measurement.data_problems(config)


def _protocol(config: EvaluateConfig) -> Iterator[str]:
    measurement, on = config.measurement, f"on = {show(config.on)}"
    if measurement.runs_model:
        yield from no_effect(config, "", ("ngram",), f"{on}, which compares with no training text")
    if measurement.runs_model and not measurement.asks_harness and not measurement.makes_vectors:
        yield from no_effect(config, "", ("pooling",), f"{on}, which makes no vectors of rows")
    yield from measurement.protocol_problems(config)


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
    elif not config.prompts.endswith(".jsonl"):
        reason = f"prompts = {show(config.prompts)}, whose lines are prompts: columns are those of .jsonl files"
        yield from no_effect(config, "", ("column",), reason)
    if config.chat:
        yield from no_effect(config, "", ("begin",), "chat = true, by which a template writes all of the prompt")
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

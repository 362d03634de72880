"""Measures a model on texts, on any process grid."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from dist_plm.config.credentials import mask
from dist_plm.core.errors import EXIT_FINISHED, DataError, count_of
from dist_plm.core.streams import tell
from dist_plm.distributed.collectives import gather
from dist_plm.monitor.tracking.of_run import TrackedRun, tracked_run
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.tasks.contamination.shared_runs import check_contamination, measure_contamination
from dist_plm.tasks.evaluate.evaluation_report import excerpts, said_of_rows, table
from dist_plm.tasks.evaluate.objective import check_held_out, measure_objective
from dist_plm.tasks.evaluate.passages import Passages, open_passages
from dist_plm.tasks.evaluate.perplexity import Asked, Turns, measure_perplexity
from dist_plm.tasks.evaluate.probe import measure_probe, probe_of
from dist_plm.tasks.evaluate.sums import COUNTS, Hard, Hardest, Sums, check_numbers, measures
from dist_plm.tasks.evaluate.task import check_task_rows, measure_task
from dist_plm.tasks.harness.measure_harness import check_asked, check_harness, measure_harness
from dist_plm.tasks.inference.open_model import (
    FoundModel,
    Session,
    build_runner,
    check_heads,
    look_at_model,
    session_of,
)
from dist_plm.tasks.inference.outputs import check_out, write_json
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.source import alike
from dist_plm.tasks.inference.vocabulary import Vocabulary


def evaluate(config: EvaluateConfig, environ: Mapping[str, str] = os.environ) -> int:
    """Measures what `config` asks for, prints it and writes it to config.out. Every rank calls it. Returns the exit code.

    Raises:
        UserError: on every rank alike, before anything is measured where that can be known.
    """
    _check_places(config)
    if not config.measurement.runs_model:
        if (content := measure_contamination(config, environ)) is not None:
            _show(config, content)
        return EXIT_FINISHED
    with session_of(config, environ) as session:
        tracked = alike(session.groups.world, lambda: _tracked(config, session)) if config.trackers else None
        content = measured(config, session)
        if session.is_first:
            _show(config, content)
            if tracked is not None:
                told = {name: value for name, value in content["results"].items() if name not in COUNTS}
                tell(f"\n{tracked.give(config.told_as, told)}")
    return EXIT_FINISHED


def check_evaluation(config: EvaluateConfig, world_size: int) -> None:
    """Sees to it, in one process that builds no model, that so many ranks can measure what is asked for.

    Raises:
        UserError: they would refuse it.
    """
    _check_places(config)
    if not config.measurement.runs_model:
        check_contamination(config)
        return
    found = look_at_model(config, world_size)
    if config.trackers:
        _tracked(config, found)
    INPUT_CHECKS[config.on](config, found)


def _check_places(config: EvaluateConfig) -> None:
    """Looks at what can be known before the ranks meet."""
    check_out(config.out, config)
    check_out(config.predictions, config, "predictions")
    if config.measurement.asks_harness:
        check_harness(config.task_folder)


def _tracked(config: EvaluateConfig, found: FoundModel) -> TrackedRun:
    source = found.source
    return tracked_run(config.from_ or "", source.run, source.where, source.step)


def measured(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    """Measures what `config` asks for; returns what the file of results holds. Collective over all ranks.

    Raises:
        UserError: on every rank alike.
    """
    content = MEASURES[config.on](config, session)
    check_numbers(content["results"], content["model"], content["data"])
    return {**content, "data": mask(content["data"])}


def _perplexity(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    passages = alike(session.groups.world, lambda: _passages(config, session))
    asked = Asked.of(config, session.config.model, session.vocabulary)
    runner = build_runner(session)
    results, worst = measure_texts(config, asked, runner, session.vocabulary, passages)
    return {
        "model": session.source.where,
        "on": config.on,
        "data": passages.where,
        "documents": config.documents,
        "window": asked.window,
        "stride": asked.stride,
        "results": results,
        "samples": [asdict(one) for one in worst],
    }


def _passages(config: EvaluateConfig, found: FoundModel) -> Passages:
    size = found.config.model.vocab_size
    assert size is not None
    return open_passages(config.data, found.vocabulary, size)


def _check_texts(config: EvaluateConfig, found: FoundModel) -> None:
    _passages(config, found)
    Asked.of(config, found.config.model, found.vocabulary)
    check_heads(found)


#: What opens that which a measurement reads, by the names that `on` has, and refuses what cannot be measured.
INPUT_CHECKS: Mapping[str, Callable[[EvaluateConfig, FoundModel], object]] = {
    "perplexity": _check_texts,
    "objective": check_held_out,
    "task": check_task_rows,
    "probe": probe_of,
    "lm_eval": check_asked,
}
#: What measures a model, by the names that `on` has.
MEASURES: Mapping[str, Callable[[EvaluateConfig, Session], dict[str, Any]]] = {
    "perplexity": _perplexity,
    "objective": measure_objective,
    "task": measure_task,
    "probe": measure_probe,
    "lm_eval": measure_harness,
}


def measure_texts(
    config: EvaluateConfig,
    asked: Asked,
    runner: Runner,
    vocabulary: Vocabulary,
    passages: Passages,
    turns: Turns = lambda more: more,
) -> tuple[dict[str, float | int], list[Hard]]:
    """Measures perplexity, and finds the hardest texts, over all ranks. Collective.

    Args:
        turns: see measure_perplexity.
    Raises:
        DataError: on every rank, where nothing could be predicted.
    """
    sums, hardest = measure_perplexity(config, asked, runner, vocabulary, passages, turns)
    total, worst = _together(config, runner, sums, hardest)
    if total.tokens == 0:
        raise DataError(f"{passages.where} holds no token that could be predicted: name another text")
    if total.num_bytes is None and config.limit == 0:
        total.num_bytes = passages.num_bytes
    return measures(total, pseudo=runner.model.is_encoder), worst


def _together(config: EvaluateConfig, runner: Runner, sums: Sums, hardest: list[Hard]) -> tuple[Sums, list[Hard]]:
    """Joins what all data ranks found; ranks that share a model found the same."""
    total, worst = Sums(), Hardest(config.samples)
    for part in gather(runner.groups.world, (sums, hardest) if runner.groups.is_first_of_model else None):
        if part is not None:
            total.add(part[0])
            for one in part[1]:
                worst.add(one)
    return total, worst.sorted()


def _show(config: EvaluateConfig, content: dict[str, Any]) -> None:
    facts = {name: content[name] for name in ("model", "data", "against") if name in content}
    if "ngram" in content:
        facts["runs"] = f"of {content['ngram']} words"
    elif config.on in content:
        facts[config.on] = content[config.on]
    else:
        facts["windows"] = (
            f"of {content['window']:,} tokens, {content['stride']:,} apart, documents {content['documents']}"
        )
    facts |= {f"signature of {name}": text for name, text in content.get("signatures", {}).items()}
    tell(table(facts, content["results"]))
    if "unmeasured" in content:
        tell(f"nothing is measured: the rows have no {content['unmeasured']}")
    for warning in content.get("warnings", ()):
        tell(warning)
    if config.predictions is not None:
        tell(f"{config.predictions}: what the model says of them")
    shown = content["samples"][0] if content["samples"] else {}
    if shown and "beginning" not in shown:
        which = "worst" if "loss" in shown or "chrf" in shown else "first"
        tell(f"\nthe {which} {count_of(len(content['samples']), 'row')}:")
        tell(said_of_rows(content["samples"]))
    elif "overlap" in shown:
        tell(f"\nshare of the words of the {count_of(len(content['samples']), 'text')} that overlap most:")
        tell(excerpts([(one["overlap"], one["name"], one["beginning"]) for one in content["samples"]]))
    elif shown:
        tell(f"\nloss a token of the {count_of(len(content['samples']), 'hardest document')}:")
        tell(excerpts([(one["loss"], one["name"], one["beginning"]) for one in content["samples"]]))
    if config.out is not None:
        write_json(config.out, content)
        tell(f"\n{config.out}")

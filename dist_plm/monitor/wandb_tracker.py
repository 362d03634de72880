"""A run's curves in wandb: one run there for one run here, however often that is started again."""

import logging
import re
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dist_plm.core.errors import EXIT_CRASHED, EXIT_REQUEUE, reason_of
from dist_plm.core.parsing import whole_number
from dist_plm.monitor.report import REPORT
from dist_plm.monitor.tracking.kept_text import kept_text
from dist_plm.monitor.tracking.later_measures import records_of
from dist_plm.monitor.tracking.steps_once import StepsOnce
from dist_plm.spec.schema_run import TrackConfig

log = logging.getLogger(__name__)

#: For the server's answer at the start, and for what is still to be sent at the end. What is not sent then stays on disk.
INIT_SECONDS = 60.0
FINISH_SECONDS = 300.0


class WandbTracker:
    """A wandb run whose id is kept in the run directory, so that a resumed run continues the same curves.

    Offline unless told otherwise, and offline as well when the server cannot be reached or nobody is logged in. Never asks
    for a login.

    A start that was killed leaves a part of the curves behind, and so may a server that was away. So each start looks which
    step wandb has, and gives it what metrics.jsonl holds from there on; offline that is everything, and the directories of
    earlier starts, which now hold nothing of their own, are moved to `wandb/earlier`: one directory is uploaded, once.

    What is told of a run that has ended ends it there again as it did: its exit code is kept beside the id, and offline its
    report is given again. One that was killed before its last step is failed there.
    """

    def __init__(
        self, config: TrackConfig, run_dir: Path, *, run_name: str, settings: Mapping[str, Any], start_step: int = 0
    ) -> None:
        import wandb

        self._wandb = wandb
        run_dir = run_dir.resolve()
        self._id = _run_id(run_dir / "wandb" / "run_id", new=start_step == 0)
        self._options = {"project": config.wandb_project, "name": run_name, "id": self._id, "dir": run_dir}
        self._options |= {"config": dict(settings), "resume": "allow", "reinit": "create_new"}
        _put_aside_earlier(run_dir / "wandb", self._id)
        self._ended, self._report = _LastEnd(run_dir / "wandb" / "exit_code", new=start_step == 0), run_dir / REPORT
        self._has_report = False
        train = settings.get("train") or {}
        self._is_cut_short = start_step < (train.get("stop_at") or train.get("steps") or 0)
        try:
            self._run = self._start(config.wandb_mode)
        except Exception as error:
            if config.wandb_mode == "offline":
                raise
            log.warning("wandb is not reachable and writes offline: %s", reason_of(error))
            wandb.teardown()  # its other process takes the run for begun, and would refuse it
            self._run = self._start("offline")
        self._steps = StepsOnce(-1)  # given to wandb by this start
        self._run.define_metric("*", step_metric="step")
        self._catch_up(run_dir, start_step)

    def _start(self, mode: Literal["online", "offline"]) -> Any:
        settings: dict[str, Any] = {"console": "off", "silent": True, "init_timeout": INIT_SECONDS}
        settings |= {"finish_timeout": FINISH_SECONDS, "finish_timeout_raises": True}
        self._wandb.setup(settings=self._wandb.Settings(silent=True))  # silent in the set-up keeps init from prompting
        return self._wandb.init(mode=mode, settings=self._wandb.Settings(**settings), **self._options)

    def _catch_up(self, run_dir: Path, start_step: int) -> None:
        """Gives wandb the records that it lacks. It takes no step again, as it may have got from a start that was killed."""
        known = self._run.starting_step
        if known > start_step + 1:
            log.info("wandb holds steps up to %d already: they stay as they are", known - 1)
        for record in records_of(run_dir, start_step) if start_step > 0 else ():
            if known <= record["step"]:
                self._give(record["step"], record)

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        self._ended.forget()  # the run goes on
        self._give(step, values)

    def _give(self, step: int, values: Mapping[str, float | int | None]) -> None:
        if (known := self._steps.values(step, values)) is not None:  # wandb takes no step again
            self._run.log({**known, "step": step}, step=step, commit=True)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Shows measures of a step that was logged before: in its row, where this start gave it, else in the run's summary, as
        wandb adds nothing to a step that it has."""
        if step < self._run.starting_step:
            for name, value in values.items():
                self._run.summary[name] = value
                self._run.summary[f"{name.rpartition('/')[0]}/step"] = step

    def rewind(self, step: int) -> None:
        """Goes back to a step. The curves of a run that went back show the steps that it gave up."""

    def close(self, exit_code: int | None = None) -> None:
        """Ends the run there: preempted where it was stopped to go on later, failed where it was refused or crashed."""
        settings = self._run.settings
        where = f"wandb sync {shlex.quote(str(settings.sync_dir))}"
        if exit_code is not None:
            self._ended.keep(exit_code)
        elif settings.run_mode == "offline-run" and not self._has_report and self._report.is_file():
            self.keep(self._report, "")
        try:
            if self._ended.exit_code == EXIT_REQUEUE:
                self._run.mark_preempting()
            self._run.finish(exit_code=self._code())
        except TimeoutError:
            log.warning("wandb has not sent all in %.0f s; what is missing is uploaded with: %s", FINISH_SECONDS, where)
        else:
            if settings.run_mode == "offline-run":
                log.info("wandb wrote offline; its curves are uploaded with: %s", where)
        self._wandb.teardown()  # finish alone returns before the other process of wandb has written its file

    def _code(self) -> int | None:
        """Gives the exit code that wandb is told: of a run that was killed none is known, and wandb would call it finished."""
        return EXIT_CRASHED if self._ended.exit_code is None and self._is_cut_short else self._ended.exit_code

    def keep(self, page: Path, text: str) -> None:
        """Adds the page to the run as an artifact, of which wandb keeps the versions."""
        artifact = self._wandb.Artifact(f"report-{self._id}", type="report")
        artifact.add_file(str(page))
        self._run.log_artifact(artifact)
        self._has_report = True


class _LastEnd:
    """Keeps in `path` the exit code that a run last ended with, for what is told of it later.

    Attributes:
        exit_code: None where the run goes on, or was killed.
    """

    def __init__(self, path: Path, *, new: bool) -> None:
        self._path = path
        self.exit_code = None if new else whole_number(kept_text(path))
        if new:
            path.unlink(missing_ok=True)

    def keep(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self._path.write_text(f"{exit_code}\n", encoding="utf-8")

    def forget(self) -> None:
        if self.exit_code is not None:
            self.exit_code = None
            self._path.unlink(missing_ok=True)


def _run_id(path: Path, *, new: bool) -> str:
    """The id kept in `path`; a new one is made up and kept there."""
    kept = "" if new else kept_text(path)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept):
        kept = secrets.token_hex(8)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{kept}\n", encoding="utf-8")
    return kept


def _put_aside_earlier(folder: Path, run_id: str) -> None:
    """Moves what earlier starts of this run wrote offline out of the reach of `wandb sync --sync-all`."""
    for directory in sorted(folder.glob(f"offline-run-*-{run_id}*")):
        (folder / "earlier").mkdir(exist_ok=True)
        target, number = folder / "earlier" / directory.name, 2
        while target.exists():
            target, number = folder / "earlier" / f"{directory.name}.{number}", number + 1
        directory.rename(target)

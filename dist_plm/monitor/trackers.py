"""wandb and TensorBoard, for those who want their curves there too; `metrics.jsonl` is written in any case.

A tracker library is imported only if chosen. One that fails warns once and is dropped: no training ends for a curve.
"""

import json
import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dist_plm.spec.schema_run import TrackConfig

log = logging.getLogger(__name__)


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Takes the values of a step under their names in metrics.jsonl; those that are None are left out."""

    def close(self) -> None:
        """Writes out what is pending."""


def build_trackers(
    config: TrackConfig, run_dir: Path, *, run_name: str, settings: Mapping[str, Any], start_step: int = 0
) -> Tracker:
    """All trackers of `config` as one that never raises. For rank 0 alone.

    Args:
        run_dir: wandb writes to `run_dir/wandb`, TensorBoard to `run_dir/tensorboard`.
        settings: the resolved configuration, shown beside the curves.
        start_step: the step the run continues from; 0 begins new curves, also in a directory that holds old ones.
    """
    makers: dict[str, Callable[[], Tracker]] = {
        "wandb": lambda: WandbTracker(config, run_dir, run_name=run_name, settings=settings, start_step=start_step),
        "tensorboard": lambda: TensorboardTracker(run_dir, settings=settings, start_step=start_step),
    }
    trackers: dict[str, Tracker] = {}
    for name in config.to:
        try:
            trackers[name] = makers[name]()
        except Exception as error:
            _warn_dropped(name, error)
    return _Guarded(trackers)


class WandbTracker:
    """A wandb run whose id is kept in the run directory, so that a resumed run continues the same curves.

    Offline unless told otherwise, and offline as well when the server cannot be reached or nobody is logged in: nothing
    is lost, `wandb sync` uploads it later. Never asks for a login.
    """

    def __init__(
        self, config: TrackConfig, run_dir: Path, *, run_name: str, settings: Mapping[str, Any], start_step: int = 0
    ) -> None:
        import wandb

        self._teardown = wandb.teardown
        wandb.setup(settings=wandb.Settings(silent=True))  # silent in the set-up is what keeps init from prompting
        run_dir = run_dir.resolve()
        run_id = _run_id(run_dir / "wandb" / "run_id", new=start_step == 0)

        def start(mode: str) -> Any:
            return wandb.init(
                project=config.wandb_project,
                name=run_name,
                id=run_id,
                resume="allow",
                dir=run_dir,
                mode=mode,  # type: ignore[arg-type]
                config=dict(settings),
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True, init_timeout=60),
            )

        try:
            self._run = start(config.wandb_mode)
        except Exception as error:
            if config.wandb_mode == "offline":
                raise
            log.warning("wandb is not reachable and writes offline (upload with `wandb sync`): %s", error)
            self._run = start("offline")
        # wandb's own step may not go back, as ours does when a killed run resumes, so ours is an ordinary value.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        self._run.log({**_present(values), "step": step})

    def close(self) -> None:
        self._run.finish()
        self._teardown()  # finish alone returns before the other process of wandb has written its file


class TensorboardTracker:
    """TensorBoard event files; tags are the names in metrics.jsonl. Older events past `start_step` are hidden."""

    def __init__(self, run_dir: Path, *, settings: Mapping[str, Any], start_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start_step + 1, flush_secs=30)
        text = json.dumps(settings, indent=2, default=str)
        self._writer.add_text("settings", f"```\n{text}\n```", global_step=start_step)

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        for name, value in _present(values).items():
            if name != "step":
                self._writer.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        self._writer.close()


class _Guarded:
    """Passes on to trackers by name, dropping one that fails."""

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        self._each(lambda tracker: tracker.log(step, values))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(tracker)
            except Exception as error:
                del self._trackers[name]
                _warn_dropped(name, error)


def _warn_dropped(name: str, error: Exception) -> None:
    log.warning("%s failed and is not used any more in this run: %r", name, error)


def _present(values: Mapping[str, float | int | None]) -> dict[str, float | int]:
    return {name: value for name, value in values.items() if value is not None}


def _run_id(path: Path, *, new: bool) -> str:
    """The id kept in `path`; a new one is made up and kept there."""
    if new or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()

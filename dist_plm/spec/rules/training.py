"""Do schedule, precision, evaluation, trackers and paths make sense together? None of it depends on the grid."""

from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.spec.rules.paths import name_problems, path_problems
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.schema import TrainingConfig
from dist_plm.spec.schema_run import TrainConfig

#: Sample numbers are of 64 bits, and those after it, which a run then takes, have to be too.
_MOST_SAMPLES = 2**53


def _steps(config: TrainingConfig) -> Iterator[str]:
    train = config.train
    if train.num_samples is None:  # else the last step is known where the run begins or goes on
        yield from stop_problems(train, "train.steps")


def stop_problems(train: TrainConfig, setting: str) -> Iterator[str]:
    """Yields a sentence where train.stop_at lies past the end of a run whose length is said by `setting`."""
    if train.stop_at is not None and train.stop_at > train.steps:
        yield (
            f"train.stop_at = {train.stop_at} lies past the end, train.steps = {train.steps}: stop_at ends a run "
            f"early; to train longer raise {setting}"
        )


def _unfreezing(config: TrainingConfig) -> Iterator[str]:
    train = config.train
    if train.unfreeze_every >= train.steps:
        yield (
            f"train.unfreeze_every = {train.unfreeze_every} unfreezes nothing within train.steps = {train.steps}: lower it, or "
            "train the head alone with train.freeze=all_but_head"
        )


def _warmup(config: TrainingConfig) -> Iterator[str]:
    schedule, steps = config.schedule, config.train.steps
    if schedule.warmup_steps is not None and schedule.warmup_ratio is not None:
        yield (
            f"schedule.warmup_steps = {schedule.warmup_steps} and schedule.warmup_ratio = {schedule.warmup_ratio} "
            "are both given: keep one and set the other to null"
        )
    elif schedule.warmup_steps is not None and schedule.warmup_steps > steps:
        yield (
            f"schedule.warmup_steps = {schedule.warmup_steps} exceeds train.steps = {steps}: the peak rate would "
            "never be reached; shorten the warm-up, or give schedule.warmup_ratio instead"
        )
    else:
        yield from schedule.problems(config)


def _precision(config: TrainingConfig) -> Iterator[str]:
    precision = config.precision
    if precision.weights != "fp32":
        yield from no_effect(precision, "precision", ("tf32",), f"precision.name = {precision.name!r}")
    if not precision.scales_loss:
        names = ("initial_loss_scale", "min_loss_scale", "loss_scale_window", "loss_scale_hysteresis")
        yield from no_effect(precision, "precision", names, f"precision.name = {precision.name!r}")
    elif precision.min_loss_scale > precision.initial_loss_scale:
        yield (
            f"precision.min_loss_scale = {precision.min_loss_scale:g} exceeds precision.initial_loss_scale = "
            f"{precision.initial_loss_scale:g}, from which the scale falls: lower the one or raise the other"
        )


def _evaluation(config: TrainingConfig) -> Iterator[str]:
    if config.train.eval_every > 0 and config.train.eval_samples == 0:
        yield (
            f"train.eval_every = {config.train.eval_every} has nothing to evaluate with train.eval_samples = 0: give "
            "train.eval_samples, or set train.eval_every=0"
        )


def _trackers(config: TrainingConfig) -> Iterator[str]:
    track = config.track
    if len(set(track.to)) != len(track.to):
        yield f"track.to = {show(track.to)} names a tracker twice: name each once"
    settings = {"wandb": ("wandb_project", "wandb_mode"), "mlflow": ("mlflow_uri", "mlflow_experiment")}
    for name, its in settings.items():
        if name not in track.to:
            yield from no_effect(track, "track", its, f"track.to = {show(track.to)}")


def _names_and_paths(config: TrainingConfig) -> Iterator[str]:
    yield from name_problems("run.name", config.run.name)
    yield from path_problems("run.root", config.run.root, made=True)
    yield from path_problems("run.dir", config.run.dir, made=True)
    yield from path_problems("train.resume", config.train.resume, url="read")


def _resume(config: TrainingConfig) -> Iterator[str]:
    resume = config.train.resume
    if resume.strip() and resume not in ("auto", "none") and "/" not in resume:
        yield (
            f"train.resume = {show(resume)} is neither auto nor none nor a path: write ./{resume} for a checkpoint "
            "directory of that name"
        )


def _init(config: TrainingConfig) -> Iterator[str]:
    train, run = config.train, config.run
    if train.init_from is None:
        yield from no_effect(train, "train", ("init_optimizer",), "train.init_from = null")
        return
    yield from path_problems("train.init_from", train.init_from, url="read")
    if run.dir is not None and f"{train.init_from.rstrip('/')}/".startswith(f"{run.dir.rstrip('/')}/"):
        yield (
            f"train.init_from = {show(train.init_from)} is this run's own directory: a run goes on by itself "
            "(train.resume=auto); to begin a new one from it give it another run.name"
        )


def _heal(config: TrainingConfig) -> Iterator[str]:
    heal, checkpoint = config.train.heal, config.checkpoint
    if not heal.rolls_back:
        names = ("before", "memory_every", "most", "within", "rate", "rate_steps")
        yield from no_effect(heal, "train.heal", names, f"train.heal.mode = {show(heal.mode)}")
        return
    if heal.rate == 1.0:
        yield from no_effect(heal, "train.heal", ("rate_steps",), "train.heal.rate = 1")
    if checkpoint.every == 0:
        yield (
            'train.heal.mode = "on" goes back to checkpoints, and checkpoint.every = 0 writes none on the way: give '
            "checkpoint.every, or set train.heal.mode=warn"
        )
    elif heal.memory_every > 0:
        yield from _copies_in_memory(config)


def _copies_in_memory(config: TrainingConfig) -> Iterator[str]:
    heal, every = config.train.heal, f"train.heal.memory_every = {config.train.heal.memory_every}"
    if heal.memory_every < heal.before:
        yield (
            f"{every} makes its last two copies within the train.heal.before = {heal.before} steps that are gone back from: "
            f"give at least {heal.before}"
        )
    if heal.memory_every > config.checkpoint.every:
        yield (
            f"{every} makes copies more rarely than checkpoint.every = {config.checkpoint.every} writes checkpoints, which are "
            "newer then: give fewer steps, or 0"
        )
    if config.engine.holding(config.precision, 1).states_on_host:
        yield (
            f"{every} copies the optimizer's tensors into host memory, where engine.deepspeed keeps these themselves: set "
            "train.heal.memory_every=0, or leave out offload_optimizer"
        )


def _observe(config: TrainingConfig) -> Iterator[str]:
    observe = config.train.observe
    if observe.parts_every == 0:
        names = ("parts_steps", "slow_share", "slow_times")
        yield from no_effect(observe, "train.observe", names, "train.observe.parts_every = 0")
    elif observe.parts_steps > observe.parts_every:
        yield (
            f"train.observe.parts_steps = {observe.parts_steps} exceeds train.observe.parts_every = {observe.parts_every}, the "
            "steps that there are: lower it"
        )
    if observe.slow_share == 0:
        yield from no_effect(observe, "train.observe", ("slow_times",), "train.observe.slow_share = 0")
    if observe.replicas_every == observe.passes_every == 0:
        reason = "train.observe.replicas_every = 0 and train.observe.passes_every = 0"
        yield from no_effect(observe, "train.observe", ("on_mismatch",), reason)


def _profile(config: TrainingConfig) -> Iterator[str]:
    steps = config.train.profile.steps
    if steps and not (len(steps) == 2 and steps[0] <= steps[1] <= config.train.steps):
        yield (
            f"train.profile.steps = {show(steps)} names no steps of this run: give the first and the last, as in [10,12], up "
            f"to train.steps = {config.train.steps}"
        )


def _skipped(config: TrainingConfig) -> Iterator[str]:
    for i, (first, stop) in enumerate(config.data.skip_samples):
        if stop <= first:
            yield (
                f"data.skip_samples[{i}] = [{first}, {stop}] holds no sample: give the first number, and the one after the last"
            )
        elif stop > _MOST_SAMPLES:
            yield f"data.skip_samples[{i}] = [{first}, {stop}] goes past {_MOST_SAMPLES:,} samples, which no run has: give less"


TRAINING_RULES: tuple[Callable[[TrainingConfig], Iterator[str]], ...] = (
    _steps,
    _unfreezing,
    _warmup,
    _precision,
    _evaluation,
    _trackers,
    _names_and_paths,
    _resume,
    _init,
    _heal,
    _observe,
    _profile,
    _skipped,
)

"""Is a run fit to be queued? Everything that can be known on the login node is asked there, not hours later."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from dist_plm.cluster.submission.asked_of_slurm import fewer_nodes_problems, slurm_problems, world_size
from dist_plm.core.errors import CheckpointError, ConfigError, DataError
from dist_plm.distributed import machine_cache
from dist_plm.spec.derived import checkpoints_of
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig, SubmissionConfig, Training, TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneSubmissionConfig

if TYPE_CHECKING:
    from dist_plm.data.sampling.blend import Dataset

#: A run of any kind that is submitted.
AnySubmission = SubmissionConfig | FinetuneSubmissionConfig
#: The same, where it stays of its kind.
Submitted = TypeVar("Submitted", bound=AnySubmission)

DEVICES = Path("/dev")
_ENGINES = Path(__file__).parents[1] / "engines"
#: Devices of NVIDIA's driver, of WSL's, and of AMD's.
_GPUS = ("nvidia[0-9]*", "dxg", "kfd")


def check(submission: Submitted) -> Submitted:
    """The run complete and checked for the ranks that its nodes will have, and what Slurm is asked for checked.

    Raises:
        ConfigError: with every rule that is broken.
        DataError: what it learns from cannot be used.
        CheckpointError: what the run begins with cannot.
    """
    problems = slurm_problems(submission.cluster)
    run = run_of(submission)
    try:
        with_data = submission.submit.check_data
        run = check_run(
            run, world_size(submission.nodes, submission.cluster), with_data=with_data, with_weights=with_data
        )
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from error
    except (DataError, CheckpointError):
        if not problems:
            raise
    problems += fewer_nodes_problems(submission, partial(problems_on, submission))
    if problems:
        raise ConfigError(problems)
    return replace(submission, **{f.name: getattr(run, f.name) for f in fields(run)})


@overload
def run_of(submission: PretrainConfig) -> PretrainConfig: ...
@overload
def run_of(submission: FinetuneConfig) -> FinetuneConfig: ...
def run_of(submission: TrainingConfig) -> TrainingConfig:
    """The run alone, as the command that trains it knows it."""
    kind = FinetuneConfig if isinstance(submission, FinetuneConfig) else PretrainConfig
    return kind(**{f.name: getattr(submission, f.name) for f in fields(kind)})


def problems_on(submission: AnySubmission, nodes: int) -> list[str]:
    """Tells what is wrong with the run on so many nodes."""
    # What data ranks there are follows from the number of nodes, unless the user fixed it.
    run = run_of(submission)
    try:
        finalize(run, world_size=world_size(nodes, submission.cluster), vocab_size=run.model.vocab_size)
    except ConfigError as error:
        return error.problems
    return []


def check_run(run: Training, world_size: int, *, with_data: bool, with_weights: bool = True) -> Training:
    """A run complete and checked for `world_size` ranks; `with_data` opens what it will open, and `with_weights` looks at what
    it begins with (train.resume=PATH, train.init_from or model.init_from) and at whose checkpoint.dir is.

    Raises:
        ConfigError: with every rule that is broken, or every key that DeepSpeed does not know.
        DataError: the corpus cannot be used.
        CheckpointError: what it begins with cannot.
    """
    if run.engine.own_keys:
        _check_own_keys(run.engine.name, run.engine.own_keys)
    samples: Dataset | None = None
    if with_data:
        run, samples = _with_data(run, world_size)
    else:
        run = finalize(run, world_size=world_size, vocab_size=None)
    if with_weights:
        _look_at_weights(run, samples)
    return run


def _look_at_weights(run: TrainingConfig, samples: "Dataset | None") -> None:
    own, directory = checkpoints_of(run.run, run.checkpoint), Path(run.run.dir or "")
    if run.model.init_from is not None:
        # They bring PyTorch.
        from dist_plm.checkpoint.ownership import check_free
        from dist_plm.checkpoint.storage import open_storage
        from dist_plm.data.sampling.build_dataset import tokenizer_store
        from dist_plm.train.startup.lease import owner_of
        from dist_plm.train.startup.load_weights import check_weights

        check_weights(run.model, tokenizer_store(run.data), run.train.resume, own)
        check_free(open_storage(own), owner_of(directory))
    if (run.train.init_from, run.checkpoint.dir) != (None, None) or run.train.resume not in ("auto", "none"):
        # And this Megatron-core.
        from dist_plm.train.startup.precheck import check_checkpoint

        check_checkpoint(run.train, run.model, run.data, run.objective, samples, run_dir=directory, checkpoints=own)


def _check_own_keys(engine: str, keys: Mapping[str, Any]) -> None:
    """Has an engine's library judge the keys that it alone knows. What it has accepted on this machine it is not asked again,
    as it takes seconds to import.

    Raises:
        ConfigError: it does not know one.
    """
    schema = f"dist_plm.engines.{engine}.json_schema"
    ours = b"".join((_ENGINES / engine / f"{name}.py").read_bytes() for name in ("json_schema", "settings"))
    told = json.dumps(keys, sort_keys=True, default=str)
    asked = f"{engine} {version(engine)}, {hashlib.sha256(ours).hexdigest()}: {told}"
    folder = machine_cache.user_cache_dir()
    if machine_cache.read(folder, "accepted", asked) is None:
        import_module(schema).check_keys(keys)
        machine_cache.write(folder, "accepted", asked, {})


def check_here(run: TrainingConfig, world_size: int) -> None:
    """Looks at a run that takes what device there is as one on the CPU, where this machine has no GPU.

    Raises:
        ConfigError: with every rule that is broken there.
    """
    if run.cluster.device != "auto" or any(next(DEVICES.glob(name), None) for name in _GPUS):
        return
    try:
        finalize(replace(run, cluster=replace(run.cluster, device="cpu")), world_size=world_size, vocab_size=None)
    except ConfigError as error:
        told = "there is no GPU here, where cluster.device=auto then takes the CPU; cluster.device=cuda checks for one"
        raise ConfigError([f"{problem} ({told})" for problem in error.problems]) from error


def _with_data(run: Training, world_size: int) -> "tuple[Training, Dataset]":
    # Brings NumPy, which launch scripts do without until they have to read data.
    from dist_plm.train.data import open_run

    run, data = open_run(run, world_size)
    return run, data.samples["train"]

"""Settings of how a run goes: its steps, checkpoints, trackers, and the machines it is on."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

from dist_plm.config.bounds import Bounds, between
from dist_plm.config.types import Count, Minutes, Natural, NonNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class RampupConfig:
    """The batch grows from `start` to train.global_batch by `increment`, in equal shares of the first `samples`."""

    start: Count
    increment: Count
    samples: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStoppingConfig:
    """Ends a run once `patience` evaluations in a row were not better by more than `threshold` than the best before, as in
    Transformers. None: the `metric` is checkpoint.keep_best, or the loss, and whether `greater_is_better` is known of it."""

    patience: Count
    threshold: NonNegative = 0.0
    metric: str | None = None
    greater_is_better: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealConfig:
    """Says what is done about a bad step: one whose loss or gradient norm is not finite, or spikes: lies by more than `loss_z`
    or `norm_z` robust standard deviations (1.4826 x the median distance from the median) above the median of the last
    `window` steps, norms by their logarithms, and more than twice as far above it as any of these; 0 turns that one off.

    Under `warn` it is told. Under `on` the run goes back to its newest checkpoint from before the bad step and the `before`
    steps that led to it, and goes on without the samples of these steps, for `rate_steps` steps at `rate` times the learning
    rate. It goes back to a copy in host memory where that is newer: of each `memory_every` steps (0: none is made) the last two
    are kept. The `most`-th time within `within` steps is the last: after it the run ends with exit code 2."""

    mode: Literal["off", "warn", "on"] = "warn"
    window: Annotated[int, between(8, 4096)] = 64  # steps; a step after fewer than half of them is no spike
    loss_z: NonNegative = 10.0
    norm_z: NonNegative = 40.0  # a lone large gradient is clipped, and does no harm
    before: Natural = 1  # steps before a bad one whose samples are left out as well: their updates led to it
    memory_every: Natural = 0
    most: Count = 3
    within: Count = 1000
    rate: Annotated[float, Bounds(low=0, high=1, low_open=True)] = 1.0  # 1: it stays
    rate_steps: Count = 100

    @property
    def rolls_back(self) -> bool:
        """Tells whether a bad step is gone back from."""
        return self.mode == "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveConfig:
    """Says what a run looks at beside its losses, every so many steps; 0: never.

    `parts_every`: of the last `parts_steps` steps before, the time that each rank took for data, forward, backward,
    communication and optimizer. A rank that took more than `slow_share` longer than the median of its peers, `slow_times`
    times in a row, is named with its node; a share of 0 names none.
    `replicas_every`: whether weights that several ranks hold are the same to the bit. `passes_every`: whether all data ranks
    compute the same loss, to the bit, of the same microbatch. Where not, ranks and nodes are named; `on_mismatch` says
    whether the run goes on; with train.heal.mode=on it goes back from weights that differ, unless that says "stop", and
    weights are compared before they are saved too. `layers_every`: of each layer, the root mean square of what it puts out,
    and the norm of its update by that of its weights, of which a copy in host memory is taken for that."""

    parts_every: Natural = 100
    parts_steps: Count = 5
    slow_share: NonNegative = 0.2
    slow_times: Count = 3
    replicas_every: Natural = 1000
    passes_every: Natural = 0
    on_mismatch: Literal["warn", "stop"] = "warn"
    layers_every: Natural = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """Says which steps are traced by PyTorch's profiler, [first, last], and on which ranks. A run that goes on is asked for its
    next steps by a file: echo 2 > RUN_DIR/profile_request. `stacks` tells lines of Python too, for some time."""

    steps: tuple[Count, ...] = ()
    ranks: tuple[Natural, ...] = (0,)
    stacks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """`steps` is the schedule's length, `stop_at` ends earlier without changing it; both count updates, also while the batch
    still grows (`batch_rampup`). Batches are counted in samples.

    A run that makes no progress for `hang_factor` times a typical step, at least `hang_minutes`, ends with a crash code; while
    it starts, evaluates or waits for a checkpoint it has at least `hang_patience_minutes`. 0 times turns this off.

    `freeze` names what is not trained: embeddings, head, all_but_head, layers.3, layers.0-5, encoder.layers.0-5, …
    With `unfreeze_every` the head alone is trained for so many steps, then the last layer as well, then the one below it and so
    on down to the embeddings (Howard & Ruder 2018, section 3.3)."""

    steps: Count
    global_batch: Count
    micro_batch: Count
    batch_rampup: RampupConfig | None = None
    stop_at: Count | None = None
    seed: Annotated[int, Bounds(low=0, high=2**63 - 1)] = 1234
    resume: str = "auto"  # auto | none | the path or URL of a checkpoint, or of a run
    init_from: str | None = None  # likewise: where a new run of other data, batch or schedule begins
    freeze: tuple[str, ...] = ()
    unfreeze_every: Natural = 0  # steps; 0: all from the start
    init_optimizer: Literal["keep", "restart", "none"] = "keep"  # moments of init_from and their count
    log_every: Count = 1
    eval_every: Natural = 0  # 0: before the first and after the last step only
    eval_samples: Natural = 256  # 0 turns evaluation off
    early_stopping: EarlyStoppingConfig | None = None
    deterministic: bool = False  # the same bits at every run on a GPU as well, for some speed
    max_skipped: Count = 100  # updates in a row that a loss or gradient that is not finite may cost
    heal: HealConfig = field(default_factory=HealConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    hang_factor: Annotated[float, between(0, 1_000_000)] = 20.0
    hang_minutes: Minutes = 5.0
    hang_patience_minutes: Minutes = 30.0

    #: Samples that the whole run takes, where they end within a step.
    num_samples: ClassVar[int | None] = None

    def fitted(self, data: int, pipeline: int) -> Self:
        """Returns it with the `micro_batch` that data ranks and pipeline stages leave of `global_batch`, where it is None."""
        return self

    @property
    def longer(self) -> str:
        """The setting of a run that learns for longer."""
        return f"train.steps={10 * self.steps}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, which stay, and what ends a run early.

    `every` counts steps; 0 saves at the end alone. Of complete checkpoints the last `keep` stay, those whose step is a
    multiple of `keep_every`, and the one that is best by the evaluation measure `keep_best` (loss, perplexity, …).
    `dir` is a directory or an fsspec URL; None: `checkpoints` in the run's. On one of `signals` the run saves and exits
    with code 75."""

    every: Natural = 0
    keep: Count = 2
    keep_every: Natural = 0
    keep_best: str | None = None
    best_is: Literal["lowest", "highest"] = "lowest"
    at_end: bool = True
    background: bool = True  # write while training goes on
    on_failure: Literal["continue", "stop"] = "continue"  # where a checkpoint cannot be written
    verify: bool = True  # compare checksums before loading
    signals: tuple[Literal["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"], ...] = ("SIGTERM", "SIGUSR1")
    dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackConfig:
    """`to` names the trackers. wandb writes offline unless `wandb_mode` says online, MLflow into the run's directory unless
    `mlflow_uri` names a server or store."""

    to: tuple[Literal["wandb", "tensorboard", "mlflow", "csv"], ...] = ()
    wandb_project: str = "dist_plm"
    wandb_mode: Literal["offline", "online"] = "offline"
    mlflow_uri: str | None = None
    mlflow_experiment: str = "dist_plm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where the ranks run. `device` auto takes CUDA where it is present; `peak_tflops` of one device is measured on CPU
    and looked up on known GPUs when None.

    A plan reads `gpu`, a name of spec/gpus.py, `network_gbit`, each GPU's share of the network between nodes (None: as in the
    vendor's own systems), `gpu_hour_price`, in whatever money, and `gpu_watts`, what a GPU draws with its share of node and
    cooling.

    From `launcher` on, what launch/submit.py asks Slurm for; None leaves it to the site. `ranks_per_node` is
    `gpus_per_node`, or 1 without GPUs, when None, and `python` the interpreter that submits. `setup`, `container` and
    `scratch` are shell, in which variables are those of the job."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_minutes: Minutes = 10.0  # of a collective, before the run is given up
    shared_memory: bool = True  # CPU ranks of one machine reduce and gather through it; false: through gloo's sockets
    peak_tflops: Positive | None = None
    gpu: str | None = None
    network_gbit: Positive | None = None
    gpu_hour_price: Positive | None = None
    gpu_watts: Positive | None = None
    preflight: bool = True  # a look at nodes, disks and links before training
    private_runs: bool = True  # run directories that are made are their user's alone; false: as umask has it
    launcher: Literal["torchrun", "srun"] = "torchrun"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # limit, as in 24:00:00 or 2-12 (days-hours)
    gpus_per_node: Natural = 0
    gpu_type: str | None = None
    ranks_per_node: Count | None = None
    cpus_per_rank: Count | None = None
    memory: str | None = None  # of a node, as in 200G; "0" is all of it
    options: tuple[str, ...] = ()  # of sbatch besides, as in --constraint=a100
    setup: tuple[str, ...] = ()  # lines that run first
    python: str | None = None
    container: str | None = None  # command that runs another one in a container
    interface: str | None = None  # of the network between nodes; None is the one that leads to the first node
    scratch: str | None = None  # directory on each node for temporary files
    signal_seconds: Annotated[int, between(1, 65535)] = 300  # before the limit, for the last checkpoint
    exclude_slow: bool = False  # a job that is requeued asks for other nodes than those that were named slow or faulty
    max_restarts: Natural = 100  # of a job, whatever stopped it
    restarts_in_job: Natural = 2  # of ranks that crashed, by torchrun, without leaving the allocation

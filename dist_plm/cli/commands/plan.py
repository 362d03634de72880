"""Says before a run is queued whether it fits into its GPUs, and how long it takes.

    python launch/plan.py experiment=bert_large_lamb cluster=example cluster.gpu=a100 --world-size 256
    python launch/plan.py experiment=gpt3_175b cluster.gpu=h100 --world-size 1024
    python launch/plan.py model=llama3_8b data=store data.path=x cluster.gpu=h100 search=true --world-size 64

It takes every setting of launch/pretrain.py, needs neither GPU nor data (the vocabulary comes from the data, where that is
here, or from model.vocab_size), and prints memory by term and stage, time by part, and what to change where it does not fit.
How far it is from published runs, docs/plan.md says.

Most used settings:
  --world-size 256               GPUs of the run
  cluster.gpu=h100               the GPU, a name of the table in docs/plan.md; without it a line for each of them
  cluster.network_gbit=200       each GPU's share of the network between nodes; as in the vendor's own systems without it
  cluster.gpu_hour_price=2.5     for the cost of the run
  search=true  top=8             the fastest process grids that fit, as settings to paste
  calibrate=runs/short           scales time to what a short run took on the same GPUs; 20 steps are enough
  picture=plan.html              draws memory by term and stage, the pipeline's timeline and a step by part
  cluster.gpu_watts=1000         for the energy of the run: a GPU with its share of node and cooling
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.cluster.check import check_run, run_of
from dist_plm.cluster.submission.asked_of_slurm import limit_seconds, time_problems
from dist_plm.config.origins import Origin
from dist_plm.core.errors import ConfigError
from dist_plm.core.streams import tell
from dist_plm.plan.picture import check_picture, write_picture
from dist_plm.plan.render import gpus_text, plan_text
from dist_plm.plan.search import better_cut, compare, cut_line, planned, search_text
from dist_plm.plan.timing.calibration import nearest_calibration
from dist_plm.plan.timing.efficiency import DEFAULT
from dist_plm.plan.verdict import able_gpus, gpu_for, make_plan, on_gpu, remedies, require_vocabulary
from dist_plm.plan.whole_job import job_lines, job_of
from dist_plm.spec.schema import PlanConfig, PretrainConfig


def execute(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    return app.front(arguments, PlanConfig, "plan", partial(run, arguments), __doc__ or "")


def run(arguments: Sequence[str], config: PlanConfig, origins: dict[str, Origin]) -> int | None:
    given, world_size = run_of(config), app.planned_world_size(arguments)
    _refuse_what_cannot_be(config)
    each = given.cluster.gpu is None and not config.search and config.calibrate is None and config.picture is None
    gpu = gpu_for(given) if not each else None
    if config.picture is not None:
        check_picture(config.picture, config)
    checked = planned(given, world_size, searched=config.search)
    complete = check_run(checked, world_size, with_data=given.data.are_here, with_weights=False)
    require_vocabulary(complete.model)
    if gpu is None:
        tell(gpus_text([make_plan(on_gpu(complete, name), world_size) for name in able_gpus(complete)]))
        return None
    given = replace(given, model=replace(given.model, vocab_size=complete.model.vocab_size))
    efficiency = DEFAULT
    if config.calibrate is not None:
        calibration, one = nearest_calibration(config.calibrate, complete), None if config.search else complete
        tell(calibration.line(one))
        efficiency = calibration.efficiency(one)
    if config.search:
        tell(search_text(compare(given, world_size, gpu, efficiency), config.top))
        return None
    plan = make_plan(complete, world_size, efficiency)
    tell(plan_text(plan, [] if plan.verdict == "fits" else remedies(given, world_size, gpu)))
    if (cut := better_cut(given, plan)) is not None:
        tell(cut_line(cut))
    limit = limit_seconds(complete.cluster.time) if complete.cluster.time is not None else None
    tell("\n".join(job_lines(job_of(plan, limit_seconds=limit, store_samples=_store_samples(complete)))))
    if config.picture is not None:
        write_picture(plan, config.picture)
        tell(f"  picture      {config.picture}")
    return None


def _refuse_what_cannot_be(config: PlanConfig) -> None:
    problems = []
    if config.search and config.picture is not None:
        problems.append(f"picture = {config.picture!r} is of one grid, and search = true compares many: leave one out")
    if config.calibrate == "":
        problems.append(
            "calibrate = '' names no run: give the directory of one, as in calibrate=runs/short, or leave it out"
        )
    problems += time_problems(config.cluster)
    if problems:
        raise ConfigError(problems)


def _store_samples(config: PretrainConfig) -> int | None:
    """Counts the samples of an epoch of the stores, as the run makes them, where they are here."""
    if not config.data.are_here:
        return None
    from dist_plm.data.sampling.blend import Blend
    from dist_plm.train.data import open_data

    samples = open_data(config.data, config.objective, config.train, config.model).samples["train"]
    sources = samples.sources if isinstance(samples, Blend) else (samples,)
    return sum(source.num_windows for source in sources)


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    app.main(PlanConfig, "plan", partial(run, sys.argv[1:]), __doc__)


if __name__ == "__main__":
    main()

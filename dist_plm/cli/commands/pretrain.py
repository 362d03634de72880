"""Pretrains a language model on a prepared corpus, on one process or thousands.

    python launch/pretrain.py train.steps=50
    torchrun --nproc-per-node 4 launch/pretrain.py model=gpt2_small parallel.tensor=2 optim.lr=3e-4
    srun --ntasks-per-node 8 python launch/pretrain.py experiment=gpt2_small data.path=corpus/web
    python launch/pretrain.py --multirun optim.lr=1e-4,3e-4      one run after the other

It reads what launch/prepare_data.py wrote (data.path) and writes into run.dir: run.yaml, metrics.jsonl, log/ and
checkpoints/. Started again with the same run.name it goes on from its latest checkpoint (train.resume=auto).

Most used settings:
  data.path=DIR  data.sequence_length=1024          what is read, in samples of how many tokens
  train.steps=1000  train.global_batch=64           length of the run, samples a step
  train.micro_batch=8                               samples a pass of one rank: what fits into its memory
  optim.lr=3e-4  schedule.warmup_steps=100          learning rate
  parallel.tensor=2  parallel.pipeline=2            the process grid; data ranks are those that remain
  precision=bf16  model.recompute=full              memory and speed
  run.name=NAME  track=wandb  checkpoint.every=500  where it goes
"""

import sys
from functools import partial
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.cli.sweeps import local_sweep
from dist_plm.config.decode import encode
from dist_plm.config.origins import Origin, complete
from dist_plm.spec.schema import PretrainConfig


def run(config: PretrainConfig, origins: dict[str, Origin]) -> int | None:
    # They import torch, which --help and --check do without.
    from dist_plm.cluster.preflight import look
    from dist_plm.tasks.evaluate.in_training import more_measures
    from dist_plm.train.build import run_training

    return run_training(
        config,
        overrides=app.settings_given(sys.argv[1:]),
        preflight=look,
        measuring=more_measures,
        origins=partial(complete, origins, encode(config)),
    )


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    local_sweep.main(PretrainConfig, "pretrain", run, __doc__)


if __name__ == "__main__":
    main()

"""Looks whether a pretraining run can start where it is, and trains nothing.

    torchrun --nproc-per-node 4 launch/preflight.py experiment=gpt2_small data.path=corpus/web
    srun --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 python launch/preflight.py experiment=gpt2_small data.path=corpus/web

It takes every setting of launch/pretrain.py and is started as that would be. Every node must have the same code, Python
packages, configuration and data, be able to write where checkpoints go, and find room for them there. Devices, memory
and the bandwidth between ranks are printed, slow links by name. A run does the same in its first seconds where it has
several nodes (cluster.preflight).
"""

import os
from datetime import timedelta
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.config.origins import Origin
from dist_plm.spec.schema import PretrainConfig


def run(config: PretrainConfig, origins: dict[str, Origin]) -> int | None:
    # They import torch, which --help and --check do without.
    from dist_plm.cluster.preflight import preflight
    from dist_plm.distributed.device import choose
    from dist_plm.distributed.fp8 import check_fp8
    from dist_plm.distributed.launch_env import from_environment
    from dist_plm.distributed.world import host_group, init_process_group, shutdown
    from dist_plm.train.opening.open_here import open_here
    from dist_plm.train.startup.start import refuse_together

    launch = from_environment(os.environ)
    config, _, unreadable = open_here(config, launch)
    device = choose(config.cluster.device, launch.local_rank)
    if config.precision.in_8_bits:
        check_fp8(device)
    timeout = timedelta(minutes=config.cluster.timeout_minutes)
    init_process_group(launch, device, timeout)
    host = host_group(timeout)
    refuse_together(unreadable, launch, host)
    lines = preflight(config, launch, device, host, whole=True)
    if launch.rank == 0:
        print("\n".join(lines))
    shutdown()
    return None


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    app.main(PretrainConfig, "pretrain", run, __doc__)


if __name__ == "__main__":
    main()

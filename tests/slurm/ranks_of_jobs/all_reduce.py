"""A rank that meets the others and adds up their numbers: what it prints tells whom it met."""

import os

import torch
import torch.distributed as dist

from dist_plm.distributed.launch_env import from_environment

launch = from_environment(os.environ)
dist.init_process_group(
    "gloo",
    init_method=f"tcp://{launch.master_addr}:{launch.master_port}",
    rank=launch.rank,
    world_size=launch.world_size,
)
total = torch.tensor([launch.rank + 1])
dist.all_reduce(total)
line = (
    f"rank {launch.rank} of {launch.world_size}, local {launch.local_rank} of {launch.local_world_size}, "
    f"on {launch.node_name}: {total.item()} over {os.environ['GLOO_SOCKET_IFNAME']}"
    f"{os.environ.get('INSIDE', '')}\n"
)
os.write(1, line.encode())  # in one piece, unlike print under torchrun
dist.barrier()
dist.destroy_process_group()

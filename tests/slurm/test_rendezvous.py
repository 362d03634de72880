from pathlib import Path

import pytest

from tests.slurm.jobs import Job, submit
from tools.slurm_cluster.cluster import LocalCluster

pytestmark = pytest.mark.slurm

ALL_REDUCE = ["tests/slurm/ranks_of_jobs/all_reduce.py"]
FORMS = ["pretrain.sbatch", "pretrain_srun.sbatch"]


def met(job: Job) -> list[str]:
    """The lines of the ranks, in their order."""
    assert job.wait() == "COMPLETED", job.log()
    return sorted(line for line in job.log().splitlines() if line.startswith("rank "))


def test_ranks_of_both_forms_meet_over_nodes_at_the_same_time(
    cluster: LocalCluster, one_address: LocalCluster, tmp_path: Path
) -> None:
    """Two runs on the same nodes, and two where node names do not resolve."""
    same = ["--nodelist=node[1-2]"]
    jobs = [
        submit(cluster, form, tmp_path / form, ALL_REDUCE, nodes=2, ranks_per_node=2, options=same) for form in FORMS
    ]
    container = ["container=(env 'INSIDE= in a container')"]
    elsewhere = [
        submit(one_address, form, tmp_path / "one" / form, ALL_REDUCE, nodes=2, settings=container) for form in FORMS
    ]
    interface = "eth0" if cluster.mode == "netns" else "lo"
    for job in jobs:
        assert met(job) == [
            f"rank {rank} of 4, local {rank % 2} of 2, on node{rank // 2 + 1}: 10 over {interface}" for rank in range(4)
        ]
    for job in elsewhere:
        lines = met(job)
        assert [line[:11] for line in lines] == ["rank 0 of 2", "rank 1 of 2"]
        assert {line.partition("on ")[2] for line in lines} == {f"node{n}: 3 over lo in a container" for n in (1, 2)}

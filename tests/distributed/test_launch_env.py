import pytest

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.launch_env import LaunchEnv, first_host, from_environment, tasks_per_node

#: What a batch script on two nodes sees: a task's variables, but none of a step's.
BATCH = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "6",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "gpu[07-08]",
    "SLURMD_NODENAME": "gpu07",
}
#: What the fifth of six tasks of a step in it sees.
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "4,2",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "gpu08",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_plain_python_is_one_process():
    launch = from_environment({"SLURMD_NODENAME": "n"})
    assert launch == LaunchEnv(node_name="n")
    assert (launch.rank, launch.world_size, launch.master_addr) == (0, 1, "127.0.0.1")
    assert from_environment({}).node_name


@pytest.mark.parametrize(
    "env",
    [
        BATCH,
        {**BATCH, "WORLD_SIZE": "1"},
        {**STEP, "SLURM_STEP_ID": str(0xFFFFFFFA)},  # a salloc shell that Slurm runs as a step
        {**STEP, "SLURM_STEP_ID": str(0xFFFFFFFB)},  # a batch script
    ],
)
def test_plain_python_in_a_batch_script_or_salloc_is_one_process(env):
    assert from_environment(env).world_size == 1


def test_torchrun_wins_also_within_a_step():
    expected = LaunchEnv(
        rank=3,
        world_size=4,
        local_rank=1,
        local_world_size=2,
        node_name="gpu08",
        master_addr="node0",
        master_port=29500,
    )
    assert from_environment({**STEP, **TORCHRUN}) == expected


def test_processes_of_a_node_as_the_launcher_of_deepspeed_counts_them():
    env = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "MASTER_ADDR": "node0"}
    launch = from_environment(env)
    assert (launch.rank, launch.local_rank, launch.local_world_size) == (3, 1, 2)
    assert from_environment({**env, "LOCAL_WORLD_SIZE": "4"}).local_world_size == 4


def test_one_process_a_node_needs_no_count_of_them():
    launch = from_environment({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})
    assert (launch.local_rank, launch.local_world_size) == (0, 1)


def test_srun_gives_every_rank_its_place():
    launch = from_environment(STEP)
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (4, 6, 0, 2)
    assert (launch.node_name, launch.master_addr) == ("gpu08", "gpu07")
    assert from_environment({**STEP, "SLURM_NODEID": "0", "SLURM_PROCID": "1"}).local_world_size == 4


def test_all_tasks_of_a_step_agree_on_where_to_meet_and_steps_differ():
    meets = {
        (launch.master_addr, launch.master_port)
        for rank in range(6)
        for launch in [from_environment({**STEP, "SLURM_PROCID": str(rank)})]
    }
    assert len(meets) == 1
    ports = {from_environment({**STEP, "SLURM_STEP_ID": str(i)}).master_port for i in range(100)}
    ports |= {from_environment({**STEP, "SLURM_JOB_ID": str(4712 + i)}).master_port for i in range(100)}
    assert len(ports) == 200
    assert all(12000 <= port < 32000 for port in ports)


def test_what_the_user_gives_decides_where_to_meet():
    launch = from_environment({**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000", "WORLD_SIZE": "6"})
    assert (launch.rank, launch.master_addr, launch.master_port) == (4, "10.0.0.1", 5000)


def test_a_step_on_one_node_needs_no_name_to_resolve():
    env = {**STEP, "SLURM_STEP_TASKS_PER_NODE": "6", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "gpu08"}
    assert from_environment(env).master_addr == "127.0.0.1"


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 in the environment does not say which process this is"),
        ({"RANK": "1"}, "RANK=1"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "start with torchrun or srun"),
        ({**TORCHRUN, "RANK": "x"}, "RANK=x in the environment is not a whole number"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK=-1"),
        ({**TORCHRUN, "RANK": "4"}, "rank 4 of 4 processes"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "local rank 2 of 2 processes"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "rank 3 of 0 processes"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK is not"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "set all four of RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "LOCAL_WORLD_SIZE is not"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "?"}, "SLURM_STEP_TASKS_PER_NODE=? is not of the form"),
        ({**STEP, "SLURM_STEP_NODELIST": "", "SLURM_NODELIST": ""}, "set MASTER_ADDR"),
    ],
)
def test_half_set_environments_are_refused(env, part):
    with pytest.raises(ConfigError) as caught:
        from_environment(env)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[01-04]", "node01"),
        ("node[007,009-012],login[1-2]", "node007"),
        ("rack[1-2]n[03-04].cluster", "rack1n03.cluster"),
        ("gpu-a100-[3]", "gpu-a100-3"),
    ],
)
def test_first_host(nodelist, first):
    assert first_host(nodelist) == first


def test_tasks_per_node():
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert tasks_per_node("8") == [8]

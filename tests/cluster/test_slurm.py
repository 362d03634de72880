from dist_plm.cluster.slurm import without_job

SHELL = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_QOS": "long", "SLURM_CPU_BIND": "none"}


def test_what_slurm_tells_a_job_is_not_handed_on_to_the_job_that_it_submits() -> None:
    told = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "100", "SLURM_RESTART_COUNT": "1", "SLURM_ARRAY_TASK_ID": "0"}
    here = {name: text for name, text in SHELL.items() if name != "SLURM_CPU_BIND"}
    assert without_job(SHELL | told) == here


def test_what_a_user_sets_for_slurm_is_handed_on() -> None:
    assert without_job(SHELL | {"SLURM_RESTART_COUNT": "1", "SLURM_ARRAY_TASK_COUNT": "3"}) == SHELL

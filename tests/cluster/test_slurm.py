from dist_plm.cluster.slurm import as_scripted, without_job

SHELL = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_QOS": "long", "SLURM_CPU_BIND": "none"}


def test_what_slurm_tells_a_job_is_not_handed_on_to_the_job_that_it_submits() -> None:
    told = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "100", "SLURM_RESTART_COUNT": "1", "SLURM_ARRAY_TASK_ID": "0"}
    here = {name: text for name, text in SHELL.items() if name != "SLURM_CPU_BIND"}
    assert without_job(SHELL | told) == here


def test_what_a_user_sets_for_slurm_is_handed_on() -> None:
    assert without_job(SHELL | {"SLURM_RESTART_COUNT": "1", "SLURM_ARRAY_TASK_COUNT": "3"}) == SHELL


def test_what_the_script_says_counts_for_more_than_what_the_user_is_used_to() -> None:
    script = "#!/bin/bash\n#SBATCH --job-name=one\n#SBATCH --time=4\n#SBATCH --requeue\nsrun one\n"
    used_to = ("JOB_NAME", "TIMELIMIT", "NO_REQUEUE", "ARRAY_INX", "ACCOUNT", "MEM_PER_CPU")
    env = {"PATH": "/bin", **{f"SBATCH_{name}": "1" for name in used_to}}
    assert set(as_scripted(script, env)) == {"PATH", "SBATCH_ACCOUNT", "SBATCH_MEM_PER_CPU"}

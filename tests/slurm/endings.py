"""Ways in which the ranks of a job end, and what its batch script is to make of them."""

#: What the shell has from which one of them is submitted: what Slurm tells another job, and what a user likes.
STRANGE = "stopped, then finished"
SHELL = (
    *("SLURM_JOB_ID=7", "SLURM_RESTART_COUNT=3", "SLURM_ARRAY_JOB_ID=7", "SLURM_ARRAY_TASK_ID=1"),
    *("SLURM_EXPORT_ENV=NONE", "SLURM_TIME_FORMAT=%H:%M", "SQUEUE_STATES=PENDING"),
    *("SLURM_MEM_PER_CPU=100", "SLURM_MEM_PER_NODE=200"),
)
#: How the ranks end at each start; restarts allowed; the job's last state, its exit code and starts; its last words.
CASES = {
    "finished": (["0"], 3, "COMPLETED", "0:0", 1, "finished"),
    "signalled twice, then finished": (["138", "0"], 3, "COMPLETED", "0:0", 2, "finished"),
    "refused": (["2"], 3, "FAILED", "2:0", 1, "refused, see above; starting it again would not help"),
    "stopped, then finished": (["75", "0"], 3, "COMPLETED", "0:0", 2, "finished"),
    "stopped too often": (["75"], 1, "FAILED", "1:0", 2, "given up after 1 restarts"),
    "stopped in vain": (["75"], 9, "FAILED", "1:0", 3, "not started again, as 3 starts in a row made no checkpoint"),
    "stopped twice in vain, then not": (["75", "75", "saved", "75", "0"], 9, "COMPLETED", "0:0", 5, "finished"),
    "a crash beside a stop": (["75,1"], 3, "FAILED", "1:0", 1, "not started again, as it made no checkpoint"),
    "a refusal beside a stop": (["2,75"], 3, "FAILED", "2:0", 1, "refused, see above"),
    "a crash beside a refusal": (["3,2"], 3, "FAILED", "3:0", 1, "not started again, as it made no checkpoint"),
    "a second signal beside a stop": (["75,138", "0"], 3, "COMPLETED", "0:0", 2, "finished"),
    "crashed without progress": (["1"], 3, "FAILED", "1:0", 1, "not started again, as it made no checkpoint"),
    "crashed with progress": (["save", "1"], 3, "FAILED", "1:0", 2, "not started again, as it made no checkpoint"),
}

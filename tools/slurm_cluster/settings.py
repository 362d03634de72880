"""Builds what Slurm is told about a local cluster: slurm.conf and gres.conf, as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PARTITION = "test"
#: Its jobs make those of the other give way.
URGENT = "urgent"


@dataclass(frozen=True, slots=True)
class Node:
    """A node as Slurm sees it. Where all share one machine's name and address, ports tell them apart."""

    name: str
    host: str
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of a cluster. Processors and GPUs are what Slurm hands out, whatever the machine has; memory likewise."""

    cpus: int = 8  # a node
    gpus: int = 4  # a node
    memory_mib: int = 6000  # a node
    lost_seconds: int = 10  # after which a node that does not answer is down
    answer_seconds: int = 30  # after which a daemon that does not answer a message is given up
    credential_seconds: int = 5  # in which a step that was granted must begin; a job that is queued again waits as long
    grace_seconds: int = 60  # for a job that has to give way


def slurm_conf(
    directory: Path, controller: Node, nodes: Sequence[Node], settings: Settings, *, user: str, first_job: int
) -> str:
    """slurm.conf of a cluster whose every file lies in `directory`.

    Args:
        user: whom the daemons run as.
        first_job: number of the first job.
    """
    lines = [
        "ClusterName=local",
        f"SlurmctldHost={controller.host}({controller.address})",
        f"SlurmctldPort={controller.port}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        # After a requeue Slurm waits for credentials to expire, 2 minutes unless told; below 5 seconds is ignored.
        f"AuthInfo=socket={directory}/munge/socket,cred_expire={settings.credential_seconds}",
        f"StateSaveLocation={directory}/state",
        f"SlurmctldPidFile={directory}/slurmctld.pid",
        f"SlurmdPidFile={directory}/%n.pid",
        f"SlurmdSpoolDir={directory}/spool/%n",
        # No control groups: they need a machine of one's own.
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SlurmdParameters=config_overrides",
        "GresTypes=gpu",
        "JobRequeue=1",
        "RequeueExit=75",
        f"FirstJobId={first_job}",
        "ReturnToService=2",
        # Seconds; a cluster at work has them ten times as long.
        f"SlurmdTimeout={settings.lost_seconds}",
        f"MessageTimeout={settings.answer_seconds}",
        "BatchStartTimeout=300",  # for a batch script to start, on a machine that does other things too
        "TCPTimeout=2",
        "KillWait=30",
        "MinJobAge=3600",  # for which a job that has ended can be asked after
        "SchedulerType=sched/backfill",
        "SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0",
        "JobCompType=jobcomp/filetxt",
        f"JobCompLoc={directory}/completed_jobs.txt",
        *(_node_line(node, settings) for node in nodes),
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        f"PartitionName={PARTITION} Nodes=ALL Default=YES MaxTime=1-00:00:00 State=UP PriorityTier=1 "
        f"GraceTime={settings.grace_seconds}",
        f"PartitionName={URGENT} Nodes=ALL MaxTime=1-00:00:00 State=UP PriorityTier=2",
    ]
    return "\n".join(lines) + "\n"


def gres_conf(directory: Path, nodes: Sequence[Node], settings: Settings) -> str:
    """gres.conf: Slurm drops GPUs that no device file stands for."""
    names = ",".join(node.name for node in nodes)
    return "".join(f"NodeName={names} Name=gpu File={directory}/gpu{i}\n" for i in range(settings.gpus))


def _node_line(node: Node, settings: Settings) -> str:
    gres = f" Gres=gpu:{settings.gpus}" if settings.gpus else ""
    return (
        f"NodeName={node.name} NodeHostname={node.host} NodeAddr={node.address} Port={node.port} "
        f"CPUs={settings.cpus} RealMemory={settings.memory_mib}{gres} State=UNKNOWN"
    )

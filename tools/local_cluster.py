"""A real Slurm on this machine, for trying jobs out: eval "$(python tools/local_cluster.py up --nodes 4)".

It needs the packages that tools/install_slurm_debian.sh installs, and for --netns root. Its files are in one temporary
directory, its ports its own; nothing of a Slurm that the machine may have is touched.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.slurm_cluster.cluster import ClusterError, LocalCluster, find
from tools.slurm_cluster.settings import Settings
from tools.slurm_cluster.start import start


def main() -> int:
    options = _parser().parse_args()
    try:
        if options.command == "up":
            _up(options)
            return 0
        cluster = find(options.conf or Path(os.environ.get("SLURM_CONF", "slurm.conf")))
        if options.command == "down":
            cluster.stop()
        elif options.command == "state":
            print("\n".join(f"{name} {state}" for name, state in cluster.states().items()))
        else:
            _DRIVE[options.command](cluster, options.node)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _up(options: argparse.Namespace) -> None:
    settings = Settings(cpus=options.cpus, gpus=options.gpus)
    cluster = start(options.nodes, "netns" if options.netns else "local", settings=settings)
    print(f"export SLURM_CONF={cluster.conf}")
    print(f"# {len(cluster.nodes)} nodes are idle. End them with: python {sys.argv[0]} down --conf {cluster.conf}")


_DRIVE = {
    "kill": LocalCluster.kill_node,
    "start": LocalCluster.start_node,
    "cut": LocalCluster.cut_off,
    "reconnect": LocalCluster.reconnect,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="local_cluster.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster and print what to export")
    up.add_argument("--nodes", type=int, default=4)
    up.add_argument("--netns", action="store_true", help="a network, host name and processes of its own for each node")
    up.add_argument("--cpus", type=int, default=Settings.cpus, help="a node, whatever the machine has")
    up.add_argument("--gpus", type=int, default=Settings.gpus, help="a node; they are handed out, yet do not exist")
    others = [
        commands.add_parser("down", help="end all its processes and remove its files"),
        commands.add_parser("state", help="print the state of each node"),
        commands.add_parser("kill", help="end a node's slurmd; with --netns, all of the node"),
        commands.add_parser("start", help="start a node that was killed"),
        commands.add_parser("cut", help="cut a node off the network (--netns)"),
        commands.add_parser("reconnect", help="connect it again"),
    ]
    for command in others:
        command.add_argument("--conf", type=Path, help="the cluster's slurm.conf; $SLURM_CONF unless given")
    for command in others[2:]:
        command.add_argument("node")
    return parser


if __name__ == "__main__":
    sys.exit(main())

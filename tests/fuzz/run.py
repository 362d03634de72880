"""Feeds broken files and settings to the commands: `python -m tests.fuzz.run --seconds 600 [AREA …]`.

A case must end with 0 and be right, or with 2 and one message, within bounds of time and memory. Any other is kept in a
directory, and its number makes it again: `--seed N --cases 1 AREA`.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.fuzz import child, commands, seeds
from tests.fuzz.areas import AREAS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=", ".join(AREAS))
    parser.add_argument("--seconds", type=float, default=600, help="time to take, at most (600)")
    parser.add_argument("--cases", type=int, default=10**9, help="of each area, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--keep", type=Path, default=Path("/tmp/fuzz"), help="where failing cases stay (/tmp/fuzz)")
    options = parser.parse_args(arguments)
    commands.bring_all()
    with tempfile.TemporaryDirectory() as place:
        found = fuzz(Path(place), options.areas or list(AREAS), options)
    for line in found:
        print(line)
    print(f"{len(found)} cases ended neither right nor refused with one message")
    return 1 if found else 0


def fuzz(place: Path, areas: Sequence[str], options: argparse.Namespace) -> list[str]:
    """One line for each case that ended badly."""
    made = seeds.make(place)
    begun, codes, found = time.monotonic(), Counter(), []
    seed = options.seed
    while time.monotonic() - begun < options.seconds and seed - options.seed < options.cases:
        for area in areas:
            problem, code = one(made, area, seed, place / "case", options.keep)
            codes[f"{area} {code}"] += 1
            found += [problem] if problem else []
        seed += 1
    print(f"{sum(codes.values())} cases in {time.monotonic() - begun:.0f} s; ended with:", dict(sorted(codes.items())))
    return found


def one(made: seeds.Seeds, area: str, seed: int, place: Path, keep: Path) -> tuple[str | None, int]:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    case = AREAS[area](made, Random(f"{area} {seed}"), place)
    ended = child.run(case.run, place)
    if ended.problem is None:
        return None, ended.code
    kept = keep / f"{area}_{seed}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(place, kept, symlinks=True)
    last = (ended.error.strip().splitlines() or ["nothing on stderr"])[-1]
    told = f"{ended.problem} after {ended.seconds:.0f} s: {case.shown[:200]!r}: {last[:200]}"
    return f"{area} {seed}: {told} [{kept}]", ended.code


if __name__ == "__main__":
    sys.exit(main())

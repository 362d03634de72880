"""The commands that README, docs/ and slurm/README.md show, and what stands before each block of them.

<!-- run -->              runs the block on a small corpus in texts/
<!-- needs: a GPU -->     its settings are checked, as those of a block without a comment; what else it holds is not ours to run
<!-- not run: reason -->  neither
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "slurm" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
#: Languages of blocks that hold no commands.
OTHER = {"text", "yaml", "python", "json"}
_BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<mark>[^\n]*) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """Holds a fenced block: its commands, one a line, and the comment before it."""

    page: str
    line: int
    language: str
    mark: str
    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    return [block for page in PAGES for block in _of(page)]


def _of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        body = match["body"].replace("\\\n", " ")
        lines = [re.sub(r"\s+#\s.*$", "", line.strip()) for line in body.splitlines()]
        commands = tuple(line for line in lines if line and not line.startswith("#"))
        name = str(page.relative_to(ROOT))
        found.append(
            Block(name, text[: match.start()].count("\n") + 1, match["language"], match["mark"] or "", commands)
        )
    return found

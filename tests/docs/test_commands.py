"""Every command that the docs show is run, or its settings are checked as the program itself would check them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dist_plm.cli.app import front
from dist_plm.cli.commands.submit import execute as submit
from dist_plm.config.suggest import setting_names
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.inference.submissions import EvaluateSubmissionConfig
from dist_plm.spec.prepare.schema import PrepareConfig, VerifyConfig
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.spec.schema import PlanConfig, PretrainConfig, RehearseConfig, SubmissionConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from tests.docs.blocks import OTHER, PAGES, ROOT, Block, blocks

BLOCKS = blocks()
SHOWN = [block for block in BLOCKS if block.language == "bash"]
KINDS = {
    "pretrain": (PretrainConfig, "pretrain"),
    "preflight": (PretrainConfig, "pretrain"),
    "convert": (ConvertConfig, "convert"),
    "evaluate": (EvaluateConfig, "evaluate"),
    "generate": (GenerateConfig, "generate"),
    "plan": (PlanConfig, "plan"),
    "rehearse": (RehearseConfig, "rehearse"),
    "samples": (SamplesShownConfig, "samples"),
    "prepare_data": (PrepareConfig, "prepare_data"),
}
#: Settings that name what only the reader has.
OF_THE_READER = ("model.init_from=", "train.init_from=", "train.resume=", "inspect=", "from=")


def test_every_block_says_what_it_holds():
    unknown = [block.name for block in BLOCKS if block.language not in {"bash", *OTHER}]
    assert unknown == [], "write ```bash for commands, ```text for what they print"
    marks = {block.mark.partition(":")[0] for block in SHOWN}
    assert marks <= {"", "run", "needs", "not run"}
    assert sum(block.mark == "run" for block in SHOWN) >= 1


def words_of(command: str) -> tuple[str, list[str], int] | None:
    """The command of ours that a line starts, its words, and the number of ranks; None where it is another program's."""
    words = shlex.split(command)
    found = [i for i, word in enumerate(words) if re.fullmatch(r"launch/\w+\.py", word)]
    if not found:
        return None
    before, name = " ".join(words[: found[0]]), Path(words[found[0]]).stem
    ranks = 1
    for option in ("--nproc-per-node", "--ntasks-per-node", "--nodes"):
        ranks *= int((re.search(rf"{option}[ =](\d+)", before) or [0, 1])[1])
    return name, words[found[0] + 1 :], ranks


@pytest.mark.parametrize("block", [b for b in SHOWN if b.mark.partition(":")[0] in ("", "needs")], ids=lambda b: b.name)
def test_settings_are_ones_that_the_program_takes(block: Block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in block.commands:
        ours = words_of(command)
        if ours is None:
            assert block.mark or command.startswith("dist-plm "), f"say <!-- needs: … --> or <!-- run -->: {command}"
            continue
        name, words, ranks = ours
        if name not in ("report", "watch") and "model=from_hf" not in words:
            assert checked(name, words, ranks, tmp_path) == 0, capsys.readouterr().err


def checked(name: str, words: list[str], ranks: int, folder: Path) -> int:
    words = ["from=x" if w.startswith("from=") else w for w in words if not w.startswith(OF_THE_READER[:3])]
    if name == "submit":
        return checked_submission(words, folder)
    if name == "prepare_data" and any(word.startswith("verify=") for word in words):
        return front(["--check", *words], VerifyConfig, "verify_data", lambda *_: 1, "")
    kind, root = KINDS[name]
    if {"--multirun", "--help", "--cfg"} & set(words):
        words = [re.sub(r"^([\w.]+=[^\[{,]+),.*", r"\1", word) for word in words if word != "--multirun"]
        return front(words if "--help" in words else ["--check", *words], kind, root, lambda *_: 1, "")
    planned = [] if "--world-size" in words else [f"--world-size={ranks}"]
    shown = [] if {"--check", "--origin"} & set(words) else ["--check"]
    return front([*shown, *planned, *words], kind, root, lambda *_: 1, "")


def checked_submission(words: list[str], folder: Path) -> int:
    """With a site's file where the words name one."""
    if "--config-dir" in words:
        place = words.index("--config-dir") + 1
        cluster = folder / "site" / "cluster" / "hall.yaml"
        cluster.parent.mkdir(parents=True)
        shutil.copy(ROOT / "conf" / "cluster" / "example.yaml", cluster)
        words = [*words[:place], str(folder / "site"), *words[place + 1 :]]
    words = [w for w in words if not w.startswith("submit.")]
    return submit([*words, "submit.dry_run=true", "submit.check_data=false"])


@pytest.mark.ranks
@pytest.mark.parametrize("block", [b for b in SHOWN if b.mark == "run"], ids=lambda b: b.name)
def test_blocks_run(block: Block, tmp_path):
    shutil.copytree(ROOT / "tests" / "data" / "texts", tmp_path / "texts")
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = "set -euo pipefail\n" + "\n".join(block.commands)
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_settings_named_in_the_text_exist():
    """`group.key` and `group.key=value` in prose and tables: a rename must not leave the docs behind."""
    known: set[str] = set()
    for kind in (
        PretrainConfig,
        FinetuneConfig,
        SubmissionConfig,
        EvaluateSubmissionConfig,
        PrepareConfig,
        ConvertConfig,
        EvaluateConfig,
        GenerateConfig,
        PlanConfig,
        RehearseConfig,
    ):
        known |= set(setting_names(kind))
    groups = {name.partition(".")[0] for name in known if "." in name}
    wrong = []
    for page in PAGES:
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text(encoding="utf-8")):
            for word in code.split():
                key = word.partition("=")[0]
                told = re.fullmatch(r"([a-z]+)(\.[a-z_]+)+", key)
                if (
                    told
                    and told[1] in groups
                    and key not in known
                    and not key.endswith((".py", ".yaml", ".json", ".jsonl", ".sbatch"))
                ):
                    wrong.append(f"{page.name}: {key}")
    # Megatron-LM is told what we call its name.
    assert [w for w in wrong if not w.endswith("parallel.tp")] == []


def test_every_page_of_the_repository_that_links_to_a_file_finds_it():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_files_named_in_the_text_exist():
    """`dist_plm/optim/lamb.py` and the like; NAME stands for the reader's own."""
    missing = []
    for page in PAGES:
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text(encoding="utf-8")):
            for word in re.split(r"[\s:]", code):
                named = re.fullmatch(r"(dist_plm|conf|launch|slurm|tests|tools|bench|docs)(/[\w.]+)+/?", word)
                if named and not {"NAME", "GROUP"} & set(re.split(r"[/._]", word)) and not (ROOT / word).exists():
                    missing.append(f"{page.name}: {word}")
    assert missing == []


def test_the_readme_is_short_and_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 1200
    first_screen = "\n".join(text.splitlines()[:40])
    assert "make quickstart" in first_screen
    assert "make test" in first_screen
    assert "docs/architecture.svg" in text

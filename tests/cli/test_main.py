import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dist_plm.cli.main import commands, files, module_of
from dist_plm.cli.refusals import report
from dist_plm.core.errors import DataError

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def dist_plm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dist_plm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_every_script_of_launch_is_a_command():
    scripts = {path.stem for path in LAUNCH.glob("*.py")}
    assert scripts == {path.stem for path in files()}
    assert {(module_of(name) or "").rpartition(".")[2] for name in commands()} == scripts


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("prepare", "dist_plm.cli.commands.prepare_data"),
        ("prepare-data", "dist_plm.cli.commands.prepare_data"),
        ("prepare_data", "dist_plm.cli.commands.prepare_data"),
        ("pretrain", "dist_plm.cli.commands.pretrain"),
        ("watch", "dist_plm.cli.commands.showing.watch"),
        ("fetch-quickstart", "dist_plm.cli.commands.fetch_quickstart"),
        ("samples", "dist_plm.cli.commands.showing.samples"),
        ("__init__", None),
        ("../main", None),
        ("", None),
    ],
)
def test_names_of_commands(name, module):
    assert module_of(name) == module


def test_help_lists_the_commands_at_once():
    help_text = dist_plm("--help").stdout
    for name, line in commands().items():
        assert f"  {name} " in help_text
        assert line.endswith((".", "`."))
        assert line in help_text
    slow = "torch", "numpy", "hydra", "omegaconf"
    code = f"import sys; from dist_plm.cli.main import help_text; help_text(); print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_misspelt_command_is_refused():
    result = dist_plm("pretain")
    assert result.returncode == 2
    assert result.stderr.startswith("pretain is not a command; did you mean pretrain?")


def test_a_command_gets_the_other_words():
    result = dist_plm("pretrain", "optim.lrr=1")
    assert result.returncode == 2
    assert "did you mean optim.lr?" in result.stderr


def test_a_message_holds_nothing_that_a_terminal_obeys(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    report(DataError("a\x1b[31m\x07 \u202etxt.exe is\tnot there,\nseen from ä"))
    assert capsys.readouterr().err == "a\\x1b[31m\\x07 \\u202etxt.exe is\tnot there,\nseen from ä\n"


def test_ctrl_c_while_a_command_imports_is_no_traceback():
    done = subprocess.run(
        [sys.executable, "-c", "import dist_plm.cli; raise KeyboardInterrupt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")

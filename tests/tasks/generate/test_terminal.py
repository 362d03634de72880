"""The command as a person has it: prompts from a file, text that comes while it is written, and talk in a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch

from dist_plm.core.streams import visible
from dist_plm.tasks.generate.show_continuations import Terminal
from tests.tasks.generate.test_generate import model_of, theirs
from tests.train.conftest import ROOT, launch

#: Control sign of terminals: the end of what is typed.
END = b"\x04"
PATIENCE = 300


def command(directory: Path, *overrides: str) -> list[str]:
    return [sys.executable, "launch/generate.py", f"from={directory}", "cluster.device=cpu", *overrides]


def text_of(directory: Path, prompt: str) -> str:
    """What Transformers goes on with."""
    _, tokenizer = model_of(directory)
    return tokenizer.decode(theirs(directory, prompt))


class Pty:
    """A command in a terminal of its own that does not repeat what is typed."""

    def __init__(self, arguments: list[str], errors: Path) -> None:
        self._ours, end = pty.openpty()
        settings = termios.tcgetattr(end)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(end, termios.TCSANOW, settings)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with errors.open("w") as file:
            self._process = subprocess.Popen(
                arguments, cwd=ROOT, env=environment, stdin=end, stdout=end, stderr=file, start_new_session=True
            )
        os.close(end)
        self.text = ""

    def type(self, signs: bytes) -> None:
        os.write(self._ours, signs)

    def read(self, seconds: float) -> bool:
        """Adds what comes within so many seconds; False at the end of it."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return True
        try:
            found = os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            return False
        self.text += found.decode(errors="replace").replace("\r\n", "\n")
        return bool(found)

    def finish(self) -> int:
        while self.read(PATIENCE):
            pass
        os.close(self._ours)
        return self._process.wait(PATIENCE)


def test_prompts_of_a_file_are_answered_in_a_file(model_dirs, tmp_path: Path) -> None:
    directory, asked = model_dirs("llama"), ["To be", "The cat sat on the mat; the dog", "Ein"]
    rows = [{"id": number, "ask": one} for number, one in enumerate(asked)]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    out = tmp_path / "answers.jsonl"
    where = (f"prompts={tmp_path}/asked.jsonl", "column=ask", f"out={out}", "max_new_tokens=12", "batch_size=2")
    done = launch(command(directory, *where))
    assert done.returncode == 0, done.stderr
    assert f"{out}: 3 answers" in done.stdout
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(answer["row"], answer["prompt"]) for answer in answers] == [*enumerate(asked)]
    expected = [theirs(directory, one) for one in asked]
    assert [answer["tokens"] for answer in answers] == [*map(len, expected)]
    assert [answer["text"] for answer in answers] == [text_of(directory, one) for one in asked]


@pytest.mark.slow
def test_an_answer_in_a_terminal_is_the_text_whole(model_dirs, tmp_path: Path) -> None:
    prompt = "The cat sat"
    directory = model_dirs("llama")
    screen = Pty(command(directory, f"prompt={prompt}", "max_new_tokens=12"), tmp_path / "errors")
    assert screen.finish() == 0, (tmp_path / "errors").read_text()
    assert screen.text == visible(f"{prompt}{text_of(directory, prompt)}\n")


def test_talk_in_a_terminal(model_dirs, tmp_path: Path) -> None:
    """The second answer is to both turns; what was typed is not said once more; Ctrl-D ends it well."""
    screen = Pty(command(model_dirs("llama"), "chat=true", "max_new_tokens=6"), tmp_path / "errors")
    screen.type(b"To be\nthe cat\n\nthe cat\n" + END)
    assert screen.finish() == 0, (tmp_path / "errors").read_text()
    begun, first, second, again, other, end = screen.text.split("> ")
    assert "Ctrl-D ends" in begun
    assert (again, end) == ("", ""), "an empty line has no answer"
    assert first.strip()
    assert "To be" not in first
    assert second != other, "the same words after others, and alone"


@pytest.mark.parametrize(
    ("pieces", "stops", "shown"),
    [
        (["one ", "E", "N", "D of", " it"], ("END",), "one \n"),
        (["one ", "E", "N", "T", "."], ("END", "x"), "one ENT.\n"),
        (["a\x1b[2J", "b\n", "c"], (), "a\\x1b[2Jb\nc\n"),
        (["so far \ufffd"], (), "so far \ufffd\n"),
    ],
)
def test_what_is_shown_is_the_answer(capsys, pieces, stops, shown) -> None:
    """Nothing of a text that ends it, no sign that a terminal obeys, and all that is left at the end."""
    screen = Terminal("", lambda tokens: "".join(pieces[token] for token in tokens), (), stops)
    screen.put(torch.tensor([7]))  # of the prompt
    for token in range(len(pieces)):
        screen.put(torch.tensor([token]))
    screen.end()
    assert capsys.readouterr().out == shown


def test_text_is_shown_as_it_comes(capsys) -> None:
    pieces = ["one", " two", " three"]
    screen = Terminal("", lambda tokens: "".join(pieces[token] for token in tokens), ())
    screen.put(torch.tensor([7]))  # of the prompt
    shown = []
    for token in range(len(pieces)):
        screen.put(torch.tensor([token]))
        shown.append(capsys.readouterr().out)
    screen.end()
    assert shown == pieces
    assert capsys.readouterr().out == "\n"

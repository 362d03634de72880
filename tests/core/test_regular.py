import os
import socket

import pytest

from dist_plm.core.regular import open_regular, read_regular


def test_a_file_is_read_through_links_too(tmp_path):
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "link") == b"text"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "directory", "link to a pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "a"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            socket.socket(socket.AF_UNIX).bind(str(path))
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=f"{path}") as error:
        open_regular(path)
    assert error.value.filename == str(path)
    assert len(os.listdir("/proc/self/fd")) == before

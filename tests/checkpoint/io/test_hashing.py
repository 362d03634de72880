from torch.distributed.checkpoint.filesystem import FileSystem

from dist_plm.checkpoint.io.hashing import HashedFiles
from dist_plm.checkpoint.train_state import checksum


def test_files_are_noted_as_they_are_written_and_under_the_name_they_get(tmp_path):
    files = HashedFiles(FileSystem())
    with files.create_stream(tmp_path / "one.tmp", "wb") as stream:
        stream.write(b"first ")
        assert stream.tell() == 6
        stream.write(memoryview(b"second"))
    files.rename(tmp_path / "one.tmp", tmp_path / "one")
    with files.create_stream(tmp_path / "one", "rb") as stream:
        assert stream.read() == b"first second"
    assert files.records == {"one": (12, checksum(b"first second"))}

"""Who may read a run's directory, and what must not stand in it."""

from pathlib import Path

SECRET = "hunter2hunter2"


def test_a_run_directory_is_its_users_alone_and_holds_no_credential(pretrain, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MY_SECRET", SECRET)
    place = "memory://user:${oc.env:MY_SECRET}@host/x"
    done = pretrain("mine", "train.steps=2", f"checkpoint.dir='{place}'", "track.to=[tensorboard]")
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "mine"
    assert run_dir.stat().st_mode & 0o777 == 0o700
    assert f"dir: {place}" in (run_dir / "run.yaml").read_text()
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in done.stdout + done.stderr
    assert f"saved {place}/step_00000002" in done.stderr + done.stdout


def test_a_site_may_leave_it_to_umask(pretrain, tmp_path: Path) -> None:
    done = pretrain("open", "train.steps=1", "cluster.private_runs=false", "checkpoint=none")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "open").stat().st_mode & 0o055 == 0o055

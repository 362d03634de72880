import functools
import shutil

import pytest


@pytest.fixture(scope="session")
def trained(ranks, tmp_path_factory):
    """Where a foreign checkpoint of tests.tasks.convert.foreign_runs lies, and what each rank that made it says."""
    from tests.tasks.convert.foreign_runs import train_and_save

    @functools.cache
    def train(name):
        directory = tmp_path_factory.mktemp(name) / "foreign"
        return directory, train_and_save(ranks, name, directory)

    return train


@pytest.fixture
def copied(trained, tmp_path):
    """One of them to be damaged: its directory by name."""
    return lambda name: shutil.copytree(trained(name)[0], tmp_path / "copied")

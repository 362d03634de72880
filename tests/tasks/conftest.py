import functools

import pytest


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory):
    """The directory of the model of tests.tasks.inference.models with a name."""
    from tests.tasks.inference.models import save

    return functools.cache(lambda name: save(name, tmp_path_factory.mktemp(name)))

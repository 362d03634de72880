import pytest

from dist_plm.data.sources import sources
from tests.data.preparing import UNIT_BYTES, contents, run


@pytest.fixture
def many_units(monkeypatch):
    monkeypatch.setattr(sources, "_MIB", UNIT_BYTES)


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """Name and bytes of every file of the store that all others must equal."""
    out = tmp_path_factory.mktemp("expected") / "store"
    before, sources._MIB = sources._MIB, UNIT_BYTES
    run(out)
    sources._MIB = before
    return contents(out)

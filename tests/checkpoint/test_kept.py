"""The best checkpoint of a run is named by a file beside `latest`, which never names one that is gone."""

import pytest

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.kept import KeptCheckpoints
from dist_plm.checkpoint.lookup import best_checkpoint, locate
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.storage import BEST, LATEST, name_of, open_storage
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.interop.kinds import kind_of

LOWEST = Retention(latest=1, best="loss")


@pytest.fixture(params=["path", "url"])
def place(request, tmp_path):
    return str(tmp_path / "checkpoints") if request.param == "path" else f"memory://{tmp_path.name}"


def add(kept, storage, step, **evaluation):
    """Completes a checkpoint, as the saver does, and drops what it supersedes before the next."""
    state = TrainState(step=step, samples_seen=step, engine={}, stream={}, evaluation=evaluation)
    directory = storage.begin(name_of(step))
    storage.write(state_file.encode(state), directory, state_file.NAME)
    storage.commit(name_of(step))
    kept.add(state)
    named = named_by(storage)
    assert named is None or named in storage.steps()
    kept.drop_superseded(step)
    return named_by(storage)


def named_by(storage):
    found = best_checkpoint(storage)
    assert (found is None) == (not storage.exists(BEST))
    return None if found is None else found.train_state.step


def test_it_follows_the_measure_and_outlasts_starts(place):
    storage = open_storage(place)
    kept = KeptCheckpoints(storage, LOWEST)
    assert add(kept, storage, 1) is None, "not measured"
    assert [add(kept, storage, step, loss=loss) for step, loss in ((2, 3.0), (3, 1.0), (4, 2.0))] == [2, 3, 3]
    assert storage.steps() == [3, 4]
    again = KeptCheckpoints(storage, LOWEST)
    assert [add(again, storage, step, loss=loss) for step, loss in ((5, 1.5), (6, 0.5))] == [3, 6]
    assert locate(f"{place}/{BEST}") == (place, name_of(6))
    assert locate(f"{place}/{LATEST}") == (place, "")
    highest = KeptCheckpoints(storage, Retention(latest=1, best="loss", best_is="highest"))
    assert add(highest, storage, 7, loss=0.7) == 7, "another direction"


def test_what_is_given_up_is_not_the_best(place):
    storage = open_storage(place)
    kept = KeptCheckpoints(storage, Retention(latest=9, best="loss"))
    assert [add(kept, storage, step, loss=loss) for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0))] == [1, 2, 3]
    kept.withdraw(3, latest=2)
    assert (named_by(storage), storage.steps()) == (2, [1, 2])
    kept.rewind(1, [])
    assert (named_by(storage), storage.steps()) == (1, [1])
    assert add(kept, storage, 2, loss=5.0) == 1
    later = KeptCheckpoints(storage, Retention(latest=9, best="loss"))
    assert add(later, storage, 1, loss=9.0) == 1, "later ones are of a continuation that was given up"


def test_a_run_that_keeps_none_names_none(place):
    storage = open_storage(place)
    assert add(KeptCheckpoints(storage, LOWEST), storage, 1, loss=1.0) == 1
    assert add(KeptCheckpoints(storage, Retention(latest=1)), storage, 2, loss=2.0) is None
    assert storage.steps() == [2]


def test_it_is_a_checkpoint_of_this_program(tmp_path):
    storage = open_storage(str(tmp_path / "checkpoints"))
    add(KeptCheckpoints(storage, LOWEST), storage, 1, loss=1.0)
    assert kind_of(str(tmp_path / "checkpoints" / BEST)) == "canonical"

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.store.index import Entries, FileEntries, HeldEntries
from dist_plm.data.store.open_file import OpenFile

values_strategy = (
    st.lists(st.integers(0, 50), min_size=1, max_size=40)
    | st.integers(1, 9).map(lambda n: list(range(0, 5000 * n, n)))
    | st.integers(1, 400).map(lambda n: [*range(n), *range(10**15, 10**15 + 3 * n, 3)])  # far from evenly spaced
    | st.integers(1, 40).map(lambda n: [i**5 // 7 for i in range(n * 25)])
)


def in_memory_and_in_a_file(folder, values: np.ndarray) -> list[Entries]:
    unit, head = 4, b"odd"
    content = (values * unit).astype("<i8").tobytes()
    (folder / "entries").write_bytes(head + content)
    (folder / "all_but_one").write_bytes(head + content[:-8] + b"something else")
    file, short = OpenFile(folder / "entries"), OpenFile(folder / "all_but_one")
    return [
        HeldEntries(values),
        FileEntries(file, len(head), len(values), unit=unit),
        FileEntries(short, len(head), len(values), unit=unit, last=int(values[-1])),
    ]


@given(values=values_strategy, data=st.data())
def test_entries_are_found_by_number_and_by_value_as_in_an_array(tmp_path_factory, values, data):
    array = np.array(sorted(values))
    wanted = np.array(data.draw(st.lists(st.sampled_from([*values, -1, max(values) + 1]), max_size=30)), dtype=np.int64)
    wanted += np.array(data.draw(st.lists(st.integers(-1, 1), min_size=len(wanted), max_size=len(wanted))), dtype=int)
    near = data.draw(st.lists(st.integers(-9, len(array) + 9), min_size=len(wanted), max_size=len(wanted)))
    numbers = np.array(data.draw(st.lists(st.integers(0, len(array) - 1), max_size=30)), dtype=np.int64)
    expected = np.searchsorted(array, wanted).tolist()
    for entries in in_memory_and_in_a_file(tmp_path_factory.mktemp("entries"), array):
        assert (entries.size, entries.last) == (len(array), array[-1])
        assert entries.take(numbers).tolist() == array[numbers].tolist()
        assert entries.take(np.arange(len(array))).tolist() == array.tolist()
        assert entries.search(wanted).tolist() == expected
        assert entries.search(wanted, np.array(near, dtype=np.int64)).tolist() == expected


@pytest.mark.parametrize("spacing", ["even", "one far off"])
def test_few_entries_are_read_for_a_search_in_many(tmp_path, monkeypatch, spacing):
    values = np.arange(10**6) * 7
    if spacing == "one far off":
        values[-1] = 10**17
    entries = in_memory_and_in_a_file(tmp_path, values)[1]
    reads = []
    monkeypatch.setattr(OpenFile, "read", lambda *arguments, read=OpenFile.read: reads.append(1) or read(*arguments))
    wanted = values[[5, 123_456, 999_998]]
    assert entries.search(wanted).tolist() == [5, 123_456, 999_998]
    assert len(reads) <= (1 if spacing == "even" else 40)

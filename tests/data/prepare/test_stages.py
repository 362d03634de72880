"""Preparation with cleaning and every kind of duplicates dropped: the same bytes however it is run."""

import json
import signal

import pytest

from dist_plm.data.sources import sources
from dist_plm.spec.prepare.schema import SourceConfig
from tests.data.preparing import (
    CORPUS,
    SOURCES,
    UNIT_BYTES,
    contents,
    in_a_process_of_its_own,
    run,
    run_on_ranks,
    slow,
)

pytestmark = pytest.mark.usefixtures("many_units")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The sources and, after them, rows of which some are equal, some nearly equal, and some broken."""
    rows = [json.loads(line)["text"] for line in (CORPUS / "sonnets_16_30.jsonl").read_text().splitlines()]
    more = [
        rows[0],
        rows[1] + "\n\n" + rows[2],
        rows[3] + " and some words more",
        "short",
        "Entirely new, and\x00 long.",
    ]
    path = tmp_path_factory.mktemp("more") / "more.jsonl"
    path.write_text("\n".join([*(json.dumps({"text": text}) for text in more), "{broken"]))
    return {"sources": (*SOURCES, SourceConfig(path=str(path))), "every_stage": True, "max_rejected": 0.1}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, corpus):
    out = tmp_path_factory.mktemp("expected") / "store"
    before, sources._MIB = sources._MIB, UNIT_BYTES
    run(out, **corpus)
    sources._MIB = before
    return contents(out)


def test_what_each_stage_did_is_told_and_recorded(tmp_path, corpus, expected):
    store, report = run(tmp_path / "store", **corpus)
    assert contents(store.path) == expected
    stages = {stage.name: (stage.removed, stage.changed) for stage in store.manifest.stages}
    assert stages["control_characters"] == (0, 1)
    assert stages["length"] == (16, 0)  # the numbers of sonnets too
    assert stages["equal documents"] == (1, 0)
    assert stages["equal paragraphs"] == (1, 0)  # all of it was there before
    assert stages["near duplicates"] == (1, 0)
    counts = store.manifest.counts
    came_out = sum(getattr(store.manifest.splits, name).documents for name in ("train", "validation", "test"))
    assert came_out == counts.documents - sum(removed for removed, _ in stages.values())
    for name, (removed, _) in stages.items():
        assert any(name in line and (f"{removed}" in line) for line in report.splitlines()), name
    assert json.loads(expected["rejected.jsonl"])["reason"] == "not JSON"


def test_any_number_of_workers_and_ranks_gives_the_same_bytes(tmp_path, corpus, expected):
    run(tmp_path / "workers", workers=2, **corpus)
    assert contents(tmp_path / "workers") == expected
    run_on_ranks(tmp_path / "ranks", 3, **corpus)
    assert contents(tmp_path / "ranks") == expected


@pytest.mark.parametrize(
    "point",
    [
        slow("kill_at(read_and_clean, 'atomic_writer', 2)"),
        slow("kill_at(read_and_clean, '_join_rejected', 1)"),
        slow("kill_at(deduplicate, '_hash', 2)"),
        slow("kill_at(deduplicate, '_save_repeated', 1)"),
        "kill_at(deduplicate, '_rewrite', 3)",
        slow("kill_at(deduplicate, '_sign_shard', 2)"),
        slow("kill_at(deduplicate, '_find_pairs', 5)"),
        slow("kill_at(deduplicate, '_near_drops', 1)"),
    ],
)
def test_killed_in_any_stage_and_started_again_it_ends_with_the_same_bytes(tmp_path, corpus, expected, point):
    out = tmp_path / "store"
    assert in_a_process_of_its_own(out, point, **corpus).returncode == -signal.SIGKILL
    assert not out.exists()
    run(out, **corpus)
    assert contents(out) == expected
    assert list(tmp_path.iterdir()) == [out]

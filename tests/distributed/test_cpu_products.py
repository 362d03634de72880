"""Which library multiplies: measured once a machine, and of one mind on all ranks."""

import json

import pytest
import torch
import torch.distributed as dist

from dist_plm.distributed import cpu_products
from dist_plm.distributed.cpu_products import WORTHWHILE, onednn_pays, speed_of_onednn
from tests.ranks.pool import World


@pytest.fixture
def measured(monkeypatch):
    found = [WORTHWHILE + 1.0, 0.5]
    monkeypatch.setattr(cpu_products, "_measured", lambda: found.pop(0))
    return found


def test_a_machine_is_measured_once(tmp_path, measured):
    assert [speed_of_onednn(tmp_path) for _ in range(3)] == [WORTHWHILE + 1.0] * 3
    assert measured == [0.5]


@pytest.mark.parametrize("content", ["not json", "[]", '{"speed": 3.0}', '{"key": "KEY", "speed": "fast"}'])
def test_a_damaged_cache_is_measured_over(tmp_path, measured, content):
    speed_of_onednn(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(content.replace("KEY", json.loads(file.read_text())["key"]), encoding="utf-8")
    assert speed_of_onednn(tmp_path) == 0.5
    assert speed_of_onednn(tmp_path) == 0.5


def test_without_onednn_nothing_is_measured(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert speed_of_onednn(tmp_path) == 0.0
    assert not list(tmp_path.iterdir())


def decided(world: World, folder, fast: list[bool]) -> bool:
    cpu_products._measured = lambda: 2.0 if fast[world.rank] else 1.0
    return onednn_pays(world.device, dist.group.WORLD, cache_dir=folder / str(world.rank))


def test_one_slow_rank_decides_for_all(ranks, tmp_path):
    assert ranks.run(2, decided, tmp_path / "mixed", [True, False]) == [False, False]
    assert ranks.run(2, decided, tmp_path / "fast", [True, True]) == [True, True]

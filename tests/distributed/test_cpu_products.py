"""Which library multiplies: measured once a machine, and of one mind on all ranks."""

import json

import pytest
import torch
import torch.distributed as dist

from dist_plm.distributed import cpu_products
from dist_plm.distributed.cpu_products import WORTHWHILE, fp32_pays, onednn_pays, speed_of_onednn, speeds_of
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


def test_products_of_16_bits_are_measured_once_a_type(tmp_path, monkeypatch):
    found = [(2.0, 1.1), (3.0, 1.2), (4.0, 1.3)]
    monkeypatch.setattr(cpu_products, "_measured_16", lambda dtype: found.pop(0))
    assert [speeds_of(torch.bfloat16, tmp_path) for _ in range(3)] == [(2.0, 1.1)] * 3
    assert [speeds_of(torch.float16, tmp_path) for _ in range(3)] == [(3.0, 1.2)] * 3
    for file in tmp_path.iterdir():
        spoiled = file.read_text(encoding="utf-8").replace('"slowness": 1.2', '"slowness": null')
        file.write_text(spoiled, encoding="utf-8")
    assert [speeds_of(torch.bfloat16, tmp_path), speeds_of(torch.float16, tmp_path)] == [(2.0, 1.1), (4.0, 1.3)]


def decided_of_16_bits(world: World, folder, fast: list[bool]) -> list[bool]:
    cpu_products._measured_16 = lambda dtype: (2.0 if fast[world.rank] else 1.0, 1.0)
    types = (torch.bfloat16, torch.float32)
    return [fp32_pays(one, world.device, dist.group.WORLD, cache_dir=folder / str(world.rank)) for one in types]


def test_one_rank_that_multiplies_16_bits_decides_for_all(ranks, tmp_path):
    assert ranks.run(2, decided_of_16_bits, tmp_path / "mixed", [True, False]) == [[False, False]] * 2
    assert ranks.run(2, decided_of_16_bits, tmp_path / "all", [True, True]) == [[True, False]] * 2


def test_seconds_are_measured_by_one_thread_and_the_others_come_back():
    threads, before = [], torch.get_num_threads()

    def kernel(left, right):
        threads.append(torch.get_num_threads())
        return torch.mm(left, right)

    torch.set_num_threads(2)
    try:
        found = cpu_products._seconds([(kernel, torch.float32), (torch.mm, torch.bfloat16)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}
    assert all(0.0 < seconds < 10.0 for seconds in found)

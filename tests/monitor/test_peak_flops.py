"""GPU peaks by the names CUDA gives, the CPU measurement, and a cache that may be absent, damaged or unwritable."""

import json

import pytest
import torch

from dist_plm.monitor import peak_flops
from dist_plm.monitor.peak_flops import CpuPeak, device_peak_tflops, gpu_peak_tflops, measure_cpu_peak

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "bf16", "fp16", "fp32", "tf32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0, 312.0, 19.5, 156.0),
        ("NVIDIA A100 80GB PCIe", 312.0, 312.0, 19.5, 156.0),
        ("NVIDIA H100 80GB HBM3", 989.4, 989.4, 66.9, 494.7),
        ("NVIDIA H100 PCIe", 756.0, 756.0, 51.2, 378.0),
        ("NVIDIA H100 NVL", 835.5, 835.5, 60.0, 417.5),
        ("NVIDIA H200", 989.4, 989.4, 66.9, 494.7),
        ("NVIDIA GH200 480GB", 989.4, 989.4, 66.9, 494.7),
        ("NVIDIA B200", 2250.0, 2250.0, 75.0, 1125.0),
        ("NVIDIA GB200", 2500.0, 2500.0, 80.0, 1250.0),
        ("Tesla V100-SXM2-16GB", None, 125.0, 15.7, 15.7),
        ("Tesla V100-PCIE-32GB", None, 112.0, 14.0, 14.0),
        ("NVIDIA L40S", 362.05, 362.05, 91.6, 183.0),
        ("NVIDIA A10", 125.0, 125.0, 31.2, 62.5),
        ("Tesla T4", None, 65.0, 8.1, 8.1),
        ("NVIDIA A800-SXM4-80GB", 312.0, 312.0, 19.5, 156.0),
        ("NVIDIA H800", 989.4, 989.4, 66.9, 494.7),
        ("NVIDIA H20", 148.0, 148.0, 44.0, 74.0),
        ("NVIDIA B300 SXM6 AC", 2250.0, 2250.0, 75.0, 1125.0),
        ("NVIDIA L20", 119.5, 119.5, 59.8, 59.8),
        ("NVIDIA GeForce RTX 4090", 165.2, 165.2, 82.6, 82.6),
        ("NVIDIA RTX 6000 Ada Generation", 364.2, 364.2, 91.1, 182.1),
        ("AMD Instinct MI300X", 1307.4, 1307.4, 163.4, 653.7),
        # never guessed: unknown chips, and names that only contain a known one
        ("NVIDIA A10G", None, None, None, None),
        ("NVIDIA A1000", None, None, None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None, None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None, None, None),
        ("AMD Instinct MI300A", None, None, None, None),
    ],
)
def test_gpus_by_name(name, bf16, fp16, fp32, tf32):
    assert gpu_peak_tflops(name, "bf16", tf32=False) == bf16
    assert gpu_peak_tflops(name, "fp16", tf32=False) == fp16
    assert gpu_peak_tflops(name, "fp32", tf32=False) == fp32
    assert gpu_peak_tflops(name, "fp32", tf32=True) == tf32


def test_an_override_is_taken_as_it_is(tmp_path):
    assert device_peak_tflops(CPU, "fp32", override=12.5, cache_dir=tmp_path) == 12.5
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_of_device_has_no_peak(tmp_path):
    assert device_peak_tflops(torch.device("meta"), "fp32", cache_dir=tmp_path) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_product_timed_here_beats_the_measured_peak_by_far(precision):
    x = torch.ones(256, 256, dtype=peak_flops._DTYPES[precision])
    for _ in range(10):  # on a busy machine one short product may be luckier than all the long ones
        measured = measure_cpu_peak(precision, budget_seconds=0.2)
        assert 1e-4 < measured.tflops < 1e3
        seconds = min(_seconds(lambda: x @ x) for _ in range(10))
        if not measured.settled or 2 * 256**3 / seconds / 1e12 < 2 * measured.tflops:
            return
    pytest.fail("a short product was more than twice as fast as the peak_flops, ten times")


def _seconds(action) -> float:
    start = peak_flops.time.perf_counter()
    action()
    return peak_flops.time.perf_counter() - start


def test_measuring_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    measure_cpu_peak("fp32", budget_seconds=0.02)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def measurements(monkeypatch):
    """Gives out the listed measurements in place of real ones."""
    results: list[CpuPeak] = []
    monkeypatch.setattr(peak_flops, "measure_cpu_peak", lambda precision: results.pop(0))
    return results


def test_a_settled_measurement_is_made_once(tmp_path, measurements):
    measurements += [CpuPeak(0.4, settled=True)]
    assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path / "new") == 0.4
    assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path / "new") == 0.4


def test_precision_and_threads_are_measured_apart(tmp_path, measurements):
    measurements += [CpuPeak(0.4, settled=True), CpuPeak(0.8, settled=True), CpuPeak(1.6, settled=True)]
    assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path) == 0.4
    assert device_peak_tflops(CPU, "bf16", cache_dir=tmp_path) == 0.8
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path) == 1.6
    finally:
        torch.set_num_threads(threads)
    assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path) == 0.4


def test_a_disturbed_measurement_is_repeated_and_the_best_kept(tmp_path, measurements):
    measurements += [CpuPeak(0.3, settled=False), CpuPeak(0.2, settled=False), CpuPeak(0.35, settled=True)]
    assert [device_peak_tflops(CPU, "fp32", cache_dir=tmp_path) for _ in range(4)] == [0.3, 0.3, 0.35, 0.35]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"tflops": "x"}', '{"tflops": 0.1}', '{"key": "other chip", "tflops": 9, "settled": true}'],
)
def test_a_damaged_or_foreign_cache_is_measured_over(tmp_path, measurements, content):
    measurements += [CpuPeak(0.4, settled=True), CpuPeak(0.5, settled=True)]
    device_peak_tflops(CPU, "fp32", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path) == 0.5
    assert json.loads(path.read_text())["tflops"] == 0.5


@pytest.mark.parametrize("value", [-1.0, 0.0, float("inf"), float("nan")])
def test_an_impossible_cached_value_is_measured_over(tmp_path, measurements, value):
    measurements += [CpuPeak(value, settled=True), CpuPeak(0.5, settled=True)]
    device_peak_tflops(CPU, "fp32", cache_dir=tmp_path)
    assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path) == 0.5


def test_an_unwritable_cache_does_no_harm(tmp_path, measurements):
    measurements += [CpuPeak(0.4, settled=True)]
    (tmp_path / "file").touch()
    assert device_peak_tflops(CPU, "fp32", cache_dir=tmp_path / "file" / "below") == 0.4


def test_the_cache_lies_where_the_user_keeps_caches(tmp_path, measurements, monkeypatch):
    measurements += [CpuPeak(0.4, settled=True), CpuPeak(0.4, settled=True)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    device_peak_tflops(CPU, "fp32")
    assert list((tmp_path / "xdg" / "dist_plm").iterdir())
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    device_peak_tflops(CPU, "fp32")
    assert list((tmp_path / ".cache" / "dist_plm").iterdir())

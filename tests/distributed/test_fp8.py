"""What a rank finds of what 8 bits need; here, where neither is, the refusal names both."""

import importlib.util

import pytest
import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.device import Device
from dist_plm.distributed.fp8 import check_fp8, fp8_facts

CPU = Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo")
without_engine = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None, reason="Transformer Engine is installed"
)


def test_a_cpu_has_no_capability_whatever_is_installed():
    assert fp8_facts(CPU).capability is None
    with pytest.raises(ConfigError, match="there is no CUDA device"):
        check_fp8(CPU)


@without_engine
def test_transformer_engine_is_missing_here():
    facts = fp8_facts(CPU)
    assert facts.transformer_engine is None
    assert "transformer_engine" in facts.why_not


@without_engine
def test_one_that_does_not_import_is_missing_and_says_why(tmp_path, monkeypatch):
    (tmp_path / "transformer_engine").mkdir()
    broken = tmp_path / "transformer_engine" / "__init__.py"
    monkeypatch.syspath_prepend(tmp_path)
    for raised in ("OSError('libcudart.so.13: cannot open')", "ImportError('libcudart.so.13: cannot open')"):
        broken.write_text(f"raise {raised}\n")
        facts = fp8_facts(CPU)
        assert facts.transformer_engine is None
        assert facts.why_not == "libcudart.so.13: cannot open"

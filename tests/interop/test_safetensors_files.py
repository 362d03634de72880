"""Weights that are written for Hugging Face."""

import pytest
import torch
from safetensors.torch import load_file

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.safetensors_files import WEIGHTS_FILE, write_weights


def write(directory, values, dtype):
    write_weights(directory, {"w": (2,)}, lambda _: torch.tensor(values), dtype=dtype, limit_bytes=100)


def test_numbers_that_a_dtype_has_not_are_refused(tmp_path):
    """They would be infinite in what others read."""
    write(tmp_path, [1.0, 65504.0], torch.float16)
    assert load_file(tmp_path / WEIGHTS_FILE)["w"].tolist() == [1.0, 65504.0]
    with pytest.raises(CheckpointError, match=r"w holds 70000, too large for F16: write another dtype, as dtype=bf16"):
        write(tmp_path, [1.0, -70000.0], torch.float16)
    with pytest.raises(CheckpointError, match=r"w holds 3.4e\+38, too large for BF16"):
        write(tmp_path, [1.0, 3.4e38], torch.bfloat16)
    write(tmp_path, [1.0, 3.4e38], torch.float32)

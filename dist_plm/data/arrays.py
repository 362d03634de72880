"""Writes arrays into files that are being written."""

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


def save_array(file: BinaryIO, array: NDArray) -> None:
    """Writes what numpy.load reads. numpy.save would hide why a disk refuses it: "9000 requested and 504 written"."""
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array)  # pyright: ignore[reportArgumentType, reportCallIssue]

import errno
import subprocess
import sys

import numpy as np
import pytest

from dist_plm.core.files import atomic_writer
from dist_plm.data.arrays import save_array


@pytest.mark.parametrize("dtype", ["<u8", "<i8", [("end", "<i8"), ("high", "<u8")]])
@pytest.mark.parametrize("shape", [(0,), (5,), (4, 2)])
def test_arrays_come_back(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).astype(np.dtype(dtype)).reshape(shape)
    with atomic_writer(tmp_path / "a.npy") as file:
        save_array(file, array)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


FULL = """
import io, json, resource, signal, sys
from pathlib import Path
import numpy as np
from dist_plm.core.files import atomic_writer
from dist_plm.data.arrays import save_array
from dist_plm.data.prepare.documents import Selection
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))

def save(path):
    with atomic_writer(path) as file:
        save_array(file, np.arange(10**6))

for write in (save, Selection([np.zeros(10**5, np.int8)], {}, ()).save):
    try:
        write(Path(sys.argv[1]))
    except OSError as error:
        print(error.errno)
"""


def test_a_full_disk_is_called_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG)] * 2
    assert list(tmp_path.iterdir()) == []

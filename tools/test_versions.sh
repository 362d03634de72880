#!/usr/bin/env bash
# Tests other versions than `make test` does: an environment in build/versions (several GB) of $PYTHON (python3.12) and $TORCH (the
# newest), and in it each Megatron-core of $MEGATRON in turn. What came of it belongs into tools/versions_tried.csv.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.12}
command -v "$python" >/dev/null || { echo "no $python here: PYTHON=… make test-versions" >&2; exit 2; }
venv=build/versions/$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet "torch${TORCH:+==$TORCH}" -e '.[dev]'
export PYTHONPATH=$PWD OMP_NUM_THREADS=1
chosen='grid_equals_one_rank or shards_nothing or overlapped or test_cell or adamw or millionth or opens_on_another or logits_losses'
for megatron in ${MEGATRON:-0.17.1 0.18.2 0.19.2}; do
    "$venv/bin/python" -m pip install --quiet --no-deps "megatron-core==$megatron"
    "$venv/bin/python" -c 'from importlib.metadata import version as v
print(*(f"{name} {v(name)}" for name in ("torch", "megatron-core", "deepspeed", "transformers", "datasets")), sep=", ")'
    "$venv/bin/python" -m pytest -q -m "not slow and not ranks and not slurm" tests/distributed tests/engines tests/models tests/optim
    "$venv/bin/python" -m pytest -q -m "not slow" -k "$chosen" \
        tests/ranks/test_{grids,engines,encoders,support,task_parity}.py tests/checkpoint/test_grids.py
done

#!/usr/bin/env bash
# Runs Python with the arguments given: the first that has what this program needs and sees a CUDA device, of $PYTHON, the
# environment of the Makefile, and what is on PATH. Where none sees one, the first that could run it, which is said.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
usable=
for python in "${PYTHON:-}" "${VENV:-.venv}/bin/python" python3 python; do
    [ -n "$python" ] && command -v "$python" >/dev/null || continue
    # The last line: libraries may chatter while they are imported.
    found=$("$python" -c 'import torch, megatron.core, deepspeed, hydra, pytest; print(torch.cuda.is_available())' 2>&1 | tail -n 1) || true
    case $found in
        True) exec "$python" "$@" ;;
        False) usable=${usable:-$python} ;;
        *) echo "$python: $found" >&2 ;;
    esac
done
if [ -z "$usable" ]; then
    echo "no Python here has all that is needed: make install CONSTRAINTS= (PyTorch for CUDA, 5 GB), or PYTHON=…" >&2
    exit 2
fi
echo "no Python here sees a CUDA device: $usable runs what the CPU can. With a GPU: make install CONSTRAINTS=, or PYTHON=…" >&2
exec "$usable" "$@"

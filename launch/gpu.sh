#!/usr/bin/env bash
# Runs one job on all GPUs of this machine; on one of several machines with the three flags of
# docs/pods.md, started on each with the same command but for --process_id.
#   launch/gpu.sh --config=experiments/byol.py --workdir=runs/byol
#   launch/gpu.sh --config=... --workdir=... --coordinator=HOST:PORT --num_processes=4 --process_id=0
# CUDA_VISIBLE_DEVICES chooses among the GPUs, PYTHON names the interpreter.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: $0 --config=experiments/NAME.py --workdir=DIR [flags]" >&2
  exit 2
fi
python=${PYTHON:-python3}
# JAX would train on the CPU without a word.
if ! "$python" -c 'import jax; jax.devices("cuda")' 2>/dev/null; then
  echo "error: JAX in $python sees no GPU: try nvidia-smi, and $python -m pip install -e .[cuda]" >&2
  exit 2
fi
if [[ " $* " != *" --coordinator="* ]]; then
  exec "$python" -m byol_jax.main "$@"
fi
source "$(dirname "${BASH_SOURCE[0]}")/processes.sh"
start "$python" -m byol_jax.main "$@"
finish

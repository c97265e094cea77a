#!/usr/bin/env bash
# Runs one job on all GPUs of this machine. For several machines, run it on each of them with the
# three flags of docs/pods.md; only --process_id differs.
#   launch/gpu.sh --config=experiments/byol.py --workdir=runs/byol
#   launch/gpu.sh --config=... --workdir=... --coordinator=HOST:PORT --num_processes=4 --process_id=0
# CUDA_VISIBLE_DEVICES selects GPUs, PYTHON names the interpreter.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: $0 --config=experiments/NAME.py --workdir=DIR [flags]" >&2
  exit 2
fi
python=${PYTHON:-python3}
# Without this check JAX would silently train on the CPU.
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

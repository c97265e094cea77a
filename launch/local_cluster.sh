#!/usr/bin/env bash
# Runs one job as N processes on the CPU of this machine; they communicate through gloo.
#   launch/local_cluster.sh 2 --config=experiments/digits.py --workdir=runs/two
# PYTHON names the interpreter, PORT the coordinator's port.
set -euo pipefail
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 N --config=experiments/NAME.py --workdir=DIR [flags]" >&2
  exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/processes.sh"
count=$1
shift
port=${PORT:-$((20000 + RANDOM % 12000))}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
for ((i = 0; i < count; i++)); do
  start "${PYTHON:-python3}" -m byol_jax.main "$@" \
    --coordinator="localhost:$port" --num_processes="$count" --process_id="$i"
done
finish

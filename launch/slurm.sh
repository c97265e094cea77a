#!/usr/bin/env bash
#SBATCH --job-name=byol_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --requeue
# Runs one job under SLURM, one process per GPU; JAX connects the processes. From the checkout:
#   sbatch --nodes=2 launch/slurm.sh --config=experiments/byol.py --workdir=/shared/runs/byol
# Options of sbatch before the script's name replace those above; keep --ntasks-per-node equal to
# --gpus-per-node. At the time limit the job saves; submit it again to continue.
# PYTHON names the interpreter.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: sbatch [options] $0 --config=experiments/NAME.py --workdir=DIR [flags]" >&2
  exit 2
fi
# SLURM runs a copy of this script, in the folder where it was submitted.
if [[ ! -f launch/processes.sh ]]; then
  echo "error: $PWD has no launch/processes.sh: submit the job from the checkout" >&2
  exit 2
fi
source launch/processes.sh
# Without --kill-on-bad-exit, a process that fails can report why, and the others notice its loss.
start srun --kill-on-bad-exit=0 --gpu-bind=none "${PYTHON:-python3}" -m byol_jax.main "$@"
finish

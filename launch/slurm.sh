#!/usr/bin/env bash
#SBATCH --job-name=byol_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --requeue
# Runs one job under SLURM, one process a GPU: JAX finds the others by itself. From the checkout:
#   sbatch --nodes=2 launch/slurm.sh --config=experiments/byol.py --workdir=/shared/runs/byol
# Options of sbatch before the script's name replace those above; --ntasks-per-node and
# --gpus-per-node are equal. At the time limit the job saves, and submitted again it goes on.
# PYTHON names the interpreter.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: sbatch [options] $0 --config=experiments/NAME.py --workdir=DIR [flags]" >&2
  exit 2
fi
# SLURM runs a copy of this script, in the folder where it was submitted.
if [[ ! -f launch/processes.sh ]]; then
  echo "error: submit it from the checkout, where launch/ is: here is $PWD" >&2
  exit 2
fi
source launch/processes.sh
# A process that fails is left to say why, and the others to notice it.
start srun --kill-on-bad-exit=0 --gpu-bind=none "${PYTHON:-python3}" -m byol_jax.main "$@"
finish

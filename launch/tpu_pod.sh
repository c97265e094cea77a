#!/usr/bin/env bash
# Rents a TPU pod slice, runs one job on all its workers, and returns it: docs/pods.md.
#   export TPU_NAME=byol ZONE=us-central2-b TYPE=v4-64
#   launch/tpu_pod.sh create
#   launch/tpu_pod.sh install              # copies the last commit of this checkout to all workers
#   launch/tpu_pod.sh run --config=experiments/byol.py --workdir=/mnt/shared/byol
#   launch/tpu_pod.sh follow               # the first worker's messages; Ctrl-C leaves the job alone
#   launch/tpu_pod.sh stop                 # saves on all workers; `run` again continues
#   launch/tpu_pod.sh delete
# --dry-run as the first argument prints the commands instead of running them. VERSION is the
# software version of the TPU VM; OPTIONS are further arguments of create, such as "--spot
# --project=mine".
set -euo pipefail

usage="usage: $0 [--dry-run] create|install|run|follow|stop|delete [flags of run]"
dry=
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi
action=${1:-}
if [[ ! $action =~ ^(create|install|run|follow|stop|delete)$ ]]; then
  echo "$usage" >&2
  exit 2
fi
shift
if [[ $action == run && $# -lt 2 ]]; then
  echo "usage: $0 run --config=experiments/NAME.py --workdir=DIR [flags]" >&2
  exit 2
fi
if [[ $action != run && $# -gt 0 ]]; then
  echo "error: $action takes no $1: $usage" >&2
  exit 2
fi
needed=(TPU_NAME ZONE)
[[ $action == create ]] && needed+=(TYPE)
for name in "${needed[@]}"; do
  if [[ -z ${!name:-} ]]; then
    echo "error: $name is not set: export $name=... (the head of $0 has an example)" >&2
    exit 2
  fi
done

# Runs a command, or prints it in a form that can be pasted into a shell.
run_or_print() {
  if [[ $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() {
  local verb=$1
  shift
  run_or_print gcloud compute tpus tpu-vm "$verb" "$TPU_NAME" --zone="$ZONE" "$@"
}

python=.venv/bin/python # on the workers
case $action in
  create)
    read -ra options <<<"${OPTIONS:-}"
    tpu create --accelerator-type="$TYPE" --version="${VERSION:-tpu-ubuntu2204-base}" \
      ${options[@]+"${options[@]}"}
    ;;
  install)
    archive=${TMPDIR:-/tmp}/byol_jax-$TPU_NAME.tar.gz
    run_or_print git -C "$(dirname "${BASH_SOURCE[0]}")/.." archive --format=tar.gz -o "$archive" HEAD
    run_or_print gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:byol_jax.tar.gz" --zone="$ZONE" \
      --worker=all
    tpu ssh --worker=all --command="mkdir -p byol_jax && cd byol_jax \
&& tar xzf ../byol_jax.tar.gz && python3 -m pip install --quiet --user uv \
&& python3 -m uv venv --quiet --clear --python=3.12 .venv \
&& python3 -m uv pip install --quiet --python=$python -e '.[tpu]'"
    ;;
  run)
    # Detached, so that it outlives the connection. The last line of the log is the exit code.
    job="source launch/processes.sh; start $python -m byol_jax.main $(printf '%q ' "$@"); finish"
    tpu ssh --worker=all --command="cd byol_jax \
&& nohup bash -c $(printf '%q' "(${job}); echo \"exit code \$?\"") >>run.log 2>&1 </dev/null &"
    ;;
  follow) tpu ssh --worker=0 --command="tail -n 50 -F byol_jax/run.log" ;;
  # Only the programs get the signal: their shells wait for them and write the exit code.
  stop) tpu ssh --worker=all --command="pkill -TERM -f '^[^ ]*python[^ ]* -m byol_jax.main'" ;;
  delete) tpu delete --quiet ;;
esac

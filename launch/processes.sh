# Sourced by the launchers of this folder: start processes, forward signals to them, wait for all of
# them, and combine their exit codes into one. docs/pods.md lists the codes.
pids=()
interrupted=
trap 'interrupted=1; kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM

start() {
  "$@" &
  pids+=($!)
}

# Ends the launcher with the lowest exit code that is not 0. The order of the codes puts a cause
# before its effects on other processes: 2 a user's mistake, 3 a guard or a lost process, signals.
finish() {
  local status=0 code i
  for i in "${!pids[@]}"; do
    while :; do
      interrupted=
      code=0
      wait "${pids[i]}" || code=$?
      # A signal interrupts `wait`, but the process still has to save.
      [[ $interrupted ]] || break
    done
    case $code in
      0 | 130 | 143) ;;
      134)
        echo "stopped: process $i lost another process, and JAX aborted it: see the lines above;" \
          "the same command goes on from the newest checkpoint" >&2
        code=3
        ;;
      *)
        if ((code > 128)); then
          echo "stopped: process $i was ended by signal $((code - 128));" \
            "the same command goes on from the newest checkpoint" >&2
          code=3
        fi
        ;;
    esac
    if ((code != 0 && (status == 0 || code < status))); then status=$code; fi
  done
  exit "$status"
}

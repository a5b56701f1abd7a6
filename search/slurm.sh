#!/bin/bash
# A sweep as a Slurm job, on all its nodes: sbatch --nodes=4 search/slurm.sh --dataset fashion_mnist --name wide --trials 400
# Submit it again, or with --array=1-8%1, to continue it. See docs/cluster.md.
#SBATCH --job-name=gbc-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@180
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

# Slurm's signal before the end comes to this shell alone. The driver gets it, and stops in good order.
drive() {
  local code
  python search/run.py "$@" &
  driver=$!
  while :; do
    told=
    code=0
    wait "$driver" || code=$?
    [[ $told ]] || return "$code" # else it was the signal that ended the waiting
  done
}
trap 'told=1; kill -TERM "${driver:-}" 2>/dev/null || true' TERM INT

count=${SLURM_JOB_NUM_NODES:-1}
if ((count == 1)); then
  drive "$@"
  exit
fi

# Every node sees the folder from which the job was submitted; the token in it is for this user's eyes.
private=$(mktemp -d "$PWD/.slurm-${SLURM_JOB_ID:-0}-XXXXXX")
finish() {
  local rays
  rays=$(jobs -p)
  # shellcheck disable=SC2086
  [[ -z $rays ]] || kill $rays 2>/dev/null || true
  rm -rf "$private"
}
trap finish EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=${RAY_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}
address=${nodes[0]}:$port
cpus=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}")

srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" ray start --block --head --port="$port" "${cpus[@]}" >/dev/null &
for ((second = 0; ; second++)); do
  ray status --address="$address" >/dev/null 2>&1 && break
  if ((second == ${RAY_START_SECONDS:-120})); then
    echo "error: Ray did not start on ${nodes[0]}, port $port; RAY_PORT names another one" >&2
    exit 1
  fi
  sleep 1
done
srun --overlap --nodes=$((count - 1)) --ntasks=$((count - 1)) --exclude="${nodes[0]}" \
  ray start --block --address="$address" "${cpus[@]}" >/dev/null &

case " $* " in
  *" --storage"*) ;;
  *) set -- --storage "$PWD/mlruns/storage" "$@" ;;
esac
drive --address "$address" "$@"

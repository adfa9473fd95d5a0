#!/usr/bin/env bash
# A command of kintsugi on the machines of a Slurm job, which are one Ray cluster for as long as it takes.
#
#   sbatch cluster/slurm.sh run partial_views --store /shared/runs --scale.workers 8 --scale.gpus 1
#
# Start it in the checkout, with its environment activated, on a file system that all machines share. A job that is
# requeued goes on from its last checkpoint, as does the same command given again.
#SBATCH --job-name=kintsugi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --exclusive
# --exclusive: `ray symmetric-run` ends with `ray stop`, which ends every Ray of yours on a machine.
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "slurm.sh: there is no command: sbatch cluster/slurm.sh run partial_views --store /shared/runs" >&2
  exit 2
fi

read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # `| head -n 1` would fail now and then under pipefail
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}'):6379"

# Other users of these machines' network could run code as you otherwise.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# Sockets lie below it: short, and on each machine's own disk.
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID"

gpus="${SLURM_GPUS_ON_NODE:-0}"
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="$gpus" --include-dashboard=false -- \
  env RAY_ADDRESS="$address" python -m stages preflight -- "$@"

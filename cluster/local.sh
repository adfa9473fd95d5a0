#!/usr/bin/env bash
# A Ray head on this machine that outlives single commands: several runs share it, and none waits for Ray to start.
#
#   cluster/local.sh [options of `ray start`]     e.g. --num-gpus 1, or --block to stay in the foreground
#
# It is bound to 127.0.0.1. Whoever can reach a Ray cluster can run code as its owner, which on a shared machine is every
# other user: Ray reads RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH from this environment, and this script sets neither.
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
ray="$here/.venv/bin/ray"
[[ -x "$ray" ]] || ray="$(command -v ray || true)"
if [[ -z "$ray" ]]; then
  echo "local.sh: there is no 'ray': run 'make .venv' first, or activate the environment it is installed in" >&2
  exit 2
fi

port="${RAY_PORT:-6379}"
cores="$(getconf _NPROCESSORS_ONLN)"

# This, not the address below, binds it to 127.0.0.1: Ray replaces a loopback address by the machine's own otherwise.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
# Sampling and evaluation reserve no GPU but use one if they see it; Ray would hide it from them.
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="${RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO:-0}"

echo "once it is up:   export RAY_ADDRESS=127.0.0.1:$port RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"
if [[ "${RAY_AUTH_MODE:-}" == token ]]; then
  echo "and, as here:    export RAY_AUTH_MODE=token"
fi
echo "to stop it:      $ray stop   (stops every Ray process of yours on this machine)"

# Two cores more than there are: kintsugi leaves two of a cluster's CPUs to Ray Data.
exec "$ray" start --head --node-ip-address=127.0.0.1 --port="$port" --include-dashboard=false \
  --num-cpus="$((cores + 2))" "$@"

#!/usr/bin/env bash
# A Ray cluster of several machines that are all this one: for trying `kintsugi submit` and steps on many workers.
#
#   cluster/several.sh [MACHINES [CPUS]]     2 machines of 4 CPUs unless you say otherwise; Ctrl-C ends it
#
# The first is the head and serves jobs. Whoever can reach a Ray cluster can run code as its owner, and one of several
# machines cannot be bound to loopback, so this one asks for a token, which it makes unless RAY_AUTH_MODE is set here.
set -euo pipefail

machines="${1:-2}" cpus="${2:-4}"
if ! [[ "$machines" =~ ^[1-9][0-9]*$ && "$cpus" =~ ^[1-9][0-9]*$ ]]; then
  echo "several.sh: '$machines' machines of '$cpus' CPUs: give two whole numbers from 1" >&2
  exit 2
fi

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
# Jobs run `python`: the one beside this `ray`.
[[ -x "$here/.venv/bin/ray" ]] && export PATH="$here/.venv/bin:$PATH"
if ! command -v ray >/dev/null; then
  echo "several.sh: there is no 'ray': run 'make .venv' first, or activate the environment it is installed in" >&2
  exit 2
fi

port="${RAY_PORT:-6379}" dashboard="${RAY_DASHBOARD_PORT:-8265}"
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1 # which local.sh tells you to turn off
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # nobody is given notice at the end
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="${RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO:-0}"
if [[ -z "${RAY_AUTH_MODE:-}" ]]; then
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/several_token}"
  if [[ ! -s "$RAY_AUTH_TOKEN_PATH" ]]; then
    (umask 077 && mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")" && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
  fi
fi
common=(--num-cpus="$cpus" --object-store-memory="${RAY_OBJECT_STORE:-500000000}" --block)
head=127.0.0.2 # Ray would replace 127.0.0.1 by an address that others can reach

# A folder for each: they would unpack jobs over one another. Short, because sockets lie there.
folder="$(mktemp -d "${RAY_TMPDIR:-/tmp}/kXXXXXX")" started=()
finish() {
  trap '' INT TERM
  for ((i = ${#started[@]} - 1; i >= 0; i--)); do kill "${started[i]}" 2>/dev/null || true; done
  wait || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() { # options of `ray start`; returns when the machine has joined
  local log="$folder/log-${#started[@]}"
  # The agent's port is any that is free: where Ray's own is taken, by another Ray here, no job could be sent.
  ray start "$@" "${common[@]}" --dashboard-agent-listen-port=0 --temp-dir="$folder/${#started[@]}" >"$log" 2>&1 &
  started+=($!)
  until grep -q "Ray runtime started" "$log"; do
    kill -0 "${started[-1]}" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.2
  done
}
start --head --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard"
for ((i = 1; i < machines; i++)); do
  start --address="$head:$port" --node-ip-address="127.0.0.$((i + 2))"
done
if [[ "$RAY_AUTH_MODE" == token ]]; then
  echo "export RAY_AUTH_MODE=token${RAY_AUTH_TOKEN_PATH:+ RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH}"
fi
echo "$machines machines of $cpus CPUs: kintsugi submit --address http://127.0.0.1:$dashboard -- COMMAND"
wait -n || true
echo "several.sh: a machine has ended, and so do the others" >&2
exit 1

#!/usr/bin/env bash
# The whole test suite against real PostgreSQL and RabbitMQ.
#   deploy/test.sh              everything, doc tests too, then short runs of deploy/chaos.sh
#   deploy/test.sh pacing -j1   only that: arguments go to cargo nextest run (or cargo test)
# Servers that ran before are left running; those started here are stopped at the end.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$CHECKOUT"

readonly SERVICES=deploy/services.sh
STARTED=()

stop_what_we_started() {
  local service
  for service in "${STARTED[@]}"; do "$SERVICES" stop "$service" || true; done
}

services_up() {
  local service variables
  for service in postgres rabbitmq; do
    if ! "$SERVICES" status "$service" >/dev/null; then STARTED+=("$service"); fi
  done
  trap stop_what_we_started EXIT
  trap 'exit 130' INT TERM HUP
  "$SERVICES" up
  # Not eval "$(...)": that would hide a failure of the command.
  variables=$("$SERVICES" env)
  eval "$variables"
}

# What the servers had to say may be why a test failed.
show_logs() {
  local log
  for log in target/services/rabbitmq/log/cd@localhost.log target/services/postgres/postgres.log; do
    if [[ -s $log ]]; then
      printf '\n== the end of %s ==\n' "$log" >&2
      tail -n 20 "$log" >&2
    fi
  done
}

run_tests() {
  local runner=(cargo test)
  if command -v cargo-nextest >/dev/null; then runner=(cargo nextest run --no-fail-fast); fi
  runner+=(--features fault-points)
  if (($#)); then
    "${runner[@]}" "$@"
  elif [[ ${runner[1]} == nextest ]]; then
    # nextest runs no doc tests.
    local failed=0
    "${runner[@]}" || failed=$?
    cargo test --features fault-points --doc || failed=$?
    return "$failed"
  else
    "${runner[@]}" --no-fail-fast
  fi
}

need_cargo
services_up
# The checked SQL is committed in .sqlx: a build must not depend on a migrated database.
export SQLX_OFFLINE=true
if ! run_tests "$@"; then
  show_logs
  exit 1
fi
# The same build as the tests: nothing is compiled again. Last, for it stops and starts the servers.
if ((!$#)); then
  deploy/chaos.sh --dev --short
  deploy/chaos.sh --dev --points --short
  deploy/chaos.sh --dev --scenario events --messages 1200
fi

#!/usr/bin/env bash
# Kills, freezes and cuts real processes, servers and connections while messages are sent, then judges from the provider's
# ledger and a recount of the rows. The last line counts; exit code 0 only when every promise was kept.
#
#   deploy/chaos.sh [--minutes N] [--seed N] [--workers N] [--messages N]
#   deploy/chaos.sh --short             about a minute, the same faults every time (deploy/test.sh runs it)
#   deploy/chaos.sh --cluster           against a RabbitMQ cluster of three nodes, one of them killed now and then
#   deploy/chaos.sh --points            every fault point of src/fault.rs, crashed, failed and delayed pass by pass
#   deploy/chaos.sh --scenario NAME     one story: takeover, outage, drain, token, pacing, cron, cancel, shares,
#                                       imports, events (with python3-pika, installed when missing)
#   --dev                               the build that tests use, in place of a release build
#
# Servers that ran before are left running. With DATABASE_URL or AMQP_URL of others, their servers are used and never
# stopped: those faults are left out.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$CHECKOUT"

readonly SERVICES=deploy/services.sh
PROFILE=(--release) FEATURES=() CLUSTER=false STARTED=() ARGUMENTS=()
for argument; do
  case $argument in
    --dev) PROFILE=() FEATURES=(--features fault-points) ;;
    --points) FEATURES=(--features fault-points) ARGUMENTS+=("$argument") ;;
    --cluster) CLUSTER=true ARGUMENTS+=("$argument") ;;
    *) ARGUMENTS+=("$argument") ;;
  esac
done

stop_what_we_started() {
  local service
  trap '' INT TERM HUP
  for service in "${STARTED[@]}"; do
    if [[ $service == cluster ]]; then deploy/cluster.sh down || true; else "$SERVICES" stop "$service" || true; fi
  done
}

services_up() {
  local service variables
  for service in postgres rabbitmq; do
    if ! "$SERVICES" status "$service" >/dev/null; then STARTED+=("$service"); fi
  done
  trap stop_what_we_started EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  "$SERVICES" up
  # Not eval "$(...)": that would hide a failure of the command.
  variables=$("$SERVICES" env)
  eval "$variables"
  if $CLUSTER; then
    STARTED+=(cluster)
    deploy/cluster.sh up
    variables=$(deploy/cluster.sh env)
    eval "$variables"
  fi
}

# The first in PATH may be another one than Debian's packages are for.
find_pika() {
  for CHAOS_PYTHON in python3 /usr/bin/python3; do
    if "$CHAOS_PYTHON" -c 'import pika' 2>/dev/null; then return; fi
  done
  return 1
}

# The program of the README that listens to events.
need_pika() {
  if ! find_pika; then
    can_install || die 'pika is missing: pip install pika, or run this as root'
    install_packages find_pika python3-pika
    find_pika || die 'installed python3-pika, yet no python3 can import pika: pip install pika'
  fi
  export CHAOS_PYTHON
}

need_cargo
if [[ " ${ARGUMENTS[*]} " == *" events "* ]]; then need_pika; fi
services_up
export SQLX_OFFLINE=true
cargo test --locked "${PROFILE[@]}" "${FEATURES[@]}" --test chaos -- "${ARGUMENTS[@]}"

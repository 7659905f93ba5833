#!/usr/bin/env bash
# Three private RabbitMQ nodes on this machine, joined, for deploy/chaos.sh --cluster. Quorum queues have a copy on each.
# Lives beside the private services of this checkout and needs their binaries: run deploy/services.sh up first.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=deploy/servers.sh
source "$CHECKOUT/deploy/servers.sh"

usage() {
  cat <<'TEXT'
Usage: deploy/cluster.sh COMMAND
  up           start what is not running, join what is not joined
  down         stop all nodes and delete their data
  env          print `export AMQP_URL=... CHAOS_AMQP_NODES=...` for eval
  kill N       kill -9 of node 1, 2 or 3
  start N      start it again
  status       one line a node
TEXT
}

readonly NODES=(1 2 3)
BASE=$(readlink -f "$CHECKOUT/target/services" 2>/dev/null || true)/cluster
HOME_DIR='' NODE='' AMQP_PORT='' DIST_PORT='' EPMD_PORT='' BECOME=()

# One name server for all three: that is how they find each other.
epmd_pid() { pid_in_folder "$BASE/1/rabbitmq/epmd.pid" "$BASE/1/rabbitmq/epmd"; }

# select_node N: what servers.sh works on.
select_node() {
  HOME_DIR=$BASE/$1 NODE=cd$1@localhost
  # shellcheck source=/dev/null
  source "$BASE/ports"
  local amqp=AMQP_$1 dist=DIST_$1
  AMQP_PORT=${!amqp} DIST_PORT=${!dist}
}

node_answers() { answers 127.0.0.1 "$AMQP_PORT"; }

# What start_rabbitmq waits with.
wait_until_up() {
  until_true 120 node_answers && return
  say "$NODE does not answer; the end of its logs:"
  find "$HOME_DIR/rabbitmq" -name '*.log' -exec tail -n 8 {} + >&2 2>/dev/null || true
  return 1
}

choose_ports() {
  local node
  if [[ -s $BASE/ports ]]; then return; fi
  mkdir -p "$BASE"
  chmod 755 "$BASE"
  {
    printf 'EPMD_PORT=%s\n' "$(free_port)"
    for node in "${NODES[@]}"; do printf 'AMQP_%s=%s\nDIST_%s=%s\n' "$node" "$(free_port)" "$node" "$(free_port)"; done
  } >"$BASE/ports"
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$BASE/cookie"
}

# Nodes know each other by a shared secret.
lay_cookie() {
  local user home=$HOME_DIR/rabbitmq/home
  mkdir -p "$HOME_DIR"
  chmod 755 "$HOME_DIR"
  user=$(service_user rabbitmq)
  own_folder rabbitmq "$user"
  own_folder rabbitmq/home "$user"
  if [[ -e $home/.erlang.cookie ]]; then return; fi
  cp "$BASE/cookie" "$home/.erlang.cookie"
  if [[ $EUID -eq 0 ]]; then chown "$user:" "$home/.erlang.cookie"; fi
  chmod 400 "$home/.erlang.cookie"
}

start_node() {
  select_node "$1"
  lay_cookie
  start_rabbitmq
}

join() {
  select_node "$1"
  if [[ -e $BASE/$1/joined ]]; then return; fi
  {
    rabbitmqctl await_startup
    rabbitmqctl stop_app
    rabbitmqctl join_cluster cd1@localhost
    rabbitmqctl start_app
  } >"$BASE/$1/join.log" 2>&1 || { cat "$BASE/$1/join.log" >&2; return 1; }
  touch "$BASE/$1/joined"
}

command_up() {
  local node
  [[ -d ${BASE%/cluster} ]] || die 'run deploy/services.sh up first'
  rabbit_sbin >/dev/null || die 'RabbitMQ is not installed here: a cluster needs its programs'
  choose_ports
  for node in "${NODES[@]}"; do start_node "$node"; done
  for node in 2 3; do join "$node"; done
}

stop_node() {
  local pid
  select_node "$1"
  if pid=$(rabbit_pid); then end_process "$pid" "$2"; fi
}

command_down() {
  local node pid
  if [[ ! -s $BASE/ports ]]; then return; fi
  for node in 3 2 1; do stop_node "$node" TERM; done
  if pid=$(epmd_pid); then end_process "$pid" TERM; fi
  rm -rf "$BASE"
}

command_env() {
  local node urls=()
  [[ -s $BASE/ports ]] || die 'the cluster is not up'
  for node in "${NODES[@]}"; do
    select_node "$node"
    urls+=("amqp://guest:guest@127.0.0.1:$AMQP_PORT/%2f")
  done
  printf 'export AMQP_URL=%q CHAOS_AMQP_NODES=%q\n' "${urls[0]}" "${urls[*]}"
}

command_status() {
  local node
  [[ -s $BASE/ports ]] || die 'the cluster is not up'
  for node in "${NODES[@]}"; do
    select_node "$node"
    if node_answers; then printf '%s up    127.0.0.1:%s\n' "$NODE" "$AMQP_PORT"; else printf '%s down\n' "$NODE"; fi
  done
}

one_of() { [[ ${1:-} =~ ^[123]$ ]] || { usage >&2; exit 2; }; }

case ${1:-} in
  up) command_up ;;
  down) command_down ;;
  env) command_env ;;
  status) command_status ;;
  kill) one_of "${2:-}"; stop_node "$2" KILL ;;
  start) one_of "${2:-}"; start_node "$2" ;;
  help | --help | -h) usage ;;
  *) usage >&2; exit 2 ;;
esac

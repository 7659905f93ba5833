#!/usr/bin/env bash
# Real PostgreSQL and RabbitMQ for this checkout, on ports and data of their own (target/services).
# With DATABASE_URL or AMQP_URL in the environment that server is used and none is started for it.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=deploy/servers.sh
source "$CHECKOUT/deploy/servers.sh"

usage() {
  cat <<'TEXT'
Usage: deploy/services.sh COMMAND
  up                           install if needed, start what is not running, wait until it answers
  down [--purge]               stop both; --purge also deletes their data
  env                          print `export DATABASE_URL=... AMQP_URL=...` for eval
  status [SERVICE]             one line per service; exit code 0 only when all answer
  start|stop|restart SERVICE   one service (postgres or rabbitmq), same port and data
    --immediate                postgres: stop without a checkpoint, so that it has to recover
    --kill                     kill -9 of the server process
  pid SERVICE                  its main process, to freeze or kill it
  rabbitmqctl ARGUMENT...      RabbitMQ's own tool, talking to this broker
TEXT
}

readonly LINK=$CHECKOUT/target/services
readonly ISSUED=$CHECKOUT/target/.services.issued
# Stable, because RabbitMQ names its data after the node. Each checkout has its own name server
# (epmd), so equal names do not meet.
readonly NODE=cd@localhost
HOME_DIR='' PG_PORT='' AMQP_PORT='' DIST_PORT='' EPMD_PORT='' ENGINE='' BECOME=()

# --- which services are ours -------------------------------------------------------------------

url_of() {
  case $1 in
    postgres) printf 'postgres://dispatch:%s@127.0.0.1:%s/dispatch\n' "$(<"$HOME_DIR/password")" "$PG_PORT" ;;
    rabbitmq) printf 'amqp://guest:guest@127.0.0.1:%s/%%2f\n' "$AMQP_PORT" ;;
  esac
}

# The URL somebody set for a service. One that `env` printed earlier is our own: after
# `eval "$(services.sh env)"` the same shell must still be able to stop what it started.
given_url() {
  local url
  case $1 in
    postgres) url=${DATABASE_URL:-} ;;
    rabbitmq) url=${AMQP_URL:-} ;;
  esac
  [[ -n $url ]] && ! grep -qsxF -- "$url" "$ISSUED" && printf '%s\n' "$url"
}

ours() {
  local service
  for service in postgres rabbitmq; do
    if ! given_url "$service" >/dev/null; then printf '%s\n' "$service"; fi
  done
}

# --- how they run -------------------------------------------------------------------------------

have_binaries() {
  # Without /proc (another system than Linux) we could not watch over the processes.
  [[ -d /proc/self/fd ]] || return 1
  case $1 in
    postgres) pg_bin >/dev/null ;;
    rabbitmq) rabbit_sbin >/dev/null && command -v erl >/dev/null && command -v epmd >/dev/null ;;
  esac
}

have_all_binaries() {
  local service
  for service in $(ours); do have_binaries "$service" || return 1; done
}

docker_answers() { docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; }

# Sets ENGINE to what runs the services: native programs, or docker.
choose_engine() {
  local service packages=()
  if [[ $ENGINE == docker ]] || have_all_binaries; then ENGINE=${ENGINE:-native}; return; fi
  for service in $(ours); do
    if have_binaries "$service"; then continue; fi
    case $service in postgres) packages+=(postgresql) ;; rabbitmq) packages+=(rabbitmq-server) ;; esac
  done
  if can_install; then
    install_packages have_all_binaries "${packages[@]}"
    have_all_binaries || die "installed ${packages[*]}, yet PostgreSQL 15+ (the data's version, if there is data) or RabbitMQ 3.10+ is missing; 'deploy/services.sh down --purge' drops old data"
    ENGINE=native
  elif docker_answers; then
    ENGINE=docker
  else
    say 'PostgreSQL 15+ or RabbitMQ 3.10+ is missing. Do one of these and run it again:'
    say "  - install them: sudo apt-get install ${packages[*]}   (or run this as root)"
    say '  - start a Docker engine with the compose plugin'
    say '  - set DATABASE_URL and AMQP_URL to servers you have'
    exit 1
  fi
}

# --- the folder with everything ----------------------------------------------------------------

reachable() {
  local service
  for service in $(ours); do
    become "$(service_user "$service")"
    "${BECOME[@]}" test -x "$1" || return 1
  done
}

home_elsewhere() {
  local parent folder
  for parent in /var/tmp "${TMPDIR:-/tmp}" /tmp; do
    folder=$(mktemp -d "$parent/campaign-dispatch.XXXXXX") || continue
    chmod 755 "$folder"
    if reachable "$folder"; then printf '%s\n' "$folder"; return; fi
    rmdir "$folder"
  done
  die "no folder for the services' data: neither target/ nor /var/tmp nor /tmp can be reached by their users"
}

# True in a checkout copied with its target/: those processes and data are the other one's.
home_is_copied() {
  local first
  first=$(cat "$LINK/checkout" 2>/dev/null) || return 1
  [[ -e $first/deploy/services.sh && ! $first/deploy/services.sh -ef $CHECKOUT/deploy/services.sh ]]
}

leave_copied_home() {
  say "target/services belongs to $(<"$LINK/checkout"); starting with empty data here"
  if [[ -L $LINK ]]; then rm "$LINK"; else rm -rf "$LINK"; fi
}

make_home() {
  if home_is_copied; then leave_copied_home; fi
  # Temporary folders go away; a link to one must not stop us for good.
  if [[ -L $LINK && ! -d $LINK ]]; then rm "$LINK"; fi
  mkdir -p "$LINK"
  if [[ ! -L $LINK ]]; then chmod 755 "$LINK"; fi
  if [[ $ENGINE == native ]] && ! reachable "$(readlink -f "$LINK")"; then
    local elsewhere
    if open_home; then stop_all; fi
    elsewhere=$(home_elsewhere)
    cp -a "$LINK/." "$elsewhere/"
    rm -rf "$LINK"
    ln -s "$elsewhere" "$LINK"
  fi
  printf '%s\n' "$ENGINE" >"$LINK/engine"
  printf '%s\n' "$CHECKOUT" >"$LINK/checkout"
  open_home
  if [[ ! -s $HOME_DIR/password ]]; then
    (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$HOME_DIR/password")
  fi
}

open_home() {
  if [[ ! -d $LINK ]] || home_is_copied; then return 1; fi
  HOME_DIR=$(readlink -f "$LINK")
  [[ $EUID -eq 0 || -O $HOME_DIR ]] || die "$HOME_DIR belongs to $(stat -c %U "$HOME_DIR"): run this as that user"
  if [[ -s $HOME_DIR/engine ]]; then ENGINE=$(<"$HOME_DIR/engine"); fi
  # shellcheck source=/dev/null
  if [[ -s $HOME_DIR/ports ]]; then source "$HOME_DIR/ports"; fi
}

# Keeps earlier ports while nobody else has taken them, so that printed URLs stay true.
choose_ports() {
  if ! is_running postgres; then new_port_if_taken PG_PORT; fi
  if ! is_running rabbitmq; then new_port_if_taken AMQP_PORT; new_port_if_taken DIST_PORT; fi
  if [[ $ENGINE == native ]] && ! epmd_pid >/dev/null; then new_port_if_taken EPMD_PORT; fi
  printf '%s\n' "PG_PORT=$PG_PORT" "AMQP_PORT=$AMQP_PORT" "DIST_PORT=$DIST_PORT" "EPMD_PORT=$EPMD_PORT" \
    >"$HOME_DIR/ports.new"
  mv "$HOME_DIR/ports.new" "$HOME_DIR/ports"
}

new_port_if_taken() {
  local -n port=$1
  if [[ -z $port ]] || port_taken "$port"; then port=$(free_port); fi
}

# --- both --------------------------------------------------------------------------------------

compose() {
  local project
  project=campaign-dispatch-$(printf '%s' "$CHECKOUT" | cksum | cut -d' ' -f1)
  PG_PASSWORD=$(<"$HOME_DIR/password") PG_PORT=$PG_PORT AMQP_PORT=$AMQP_PORT \
    docker compose -p "$project" -f "$CHECKOUT/deploy/compose.yml" "$@"
}

service_pid() {
  if [[ $ENGINE == docker ]]; then compose ps -q --status running "$1" | grep .; return; fi
  case $1 in postgres) pg_pid ;; rabbitmq) rabbit_pid ;; esac
}

is_running() { service_pid "$1" >/dev/null; }

service_answers() {
  case $1 in
    postgres) if [[ $ENGINE == docker ]]; then answers 127.0.0.1 "$PG_PORT"; else
      "$(pg_bin)/pg_isready" -q -t 3 -h 127.0.0.1 -p "$PG_PORT"; fi ;;
    # The kernel accepts for a frozen broker, and a real handshake would fill its log with errors.
    rabbitmq) answers 127.0.0.1 "$AMQP_PORT" && { [[ $ENGINE == docker ]] || ! is_frozen "$(rabbit_pid)"; } ;;
  esac
}

is_up() { is_running "$1" && service_answers "$1"; }

up_or_dead() { is_up "$1" || ! is_running "$1"; }

wait_until_up() {
  # A frozen server (an interrupted chaos run) accepts nothing until it is woken.
  if [[ $ENGINE == native ]]; then wake "$(service_folder "$1")"; fi
  until_true 120 up_or_dead "$1" && is_running "$1" && return
  say "$1 does not answer; the end of its logs in $HOME_DIR/$1:"
  find "$HOME_DIR/$1" -name '*.log' -exec tail -n 8 {} + >&2 2>/dev/null || true
  return 1
}

start_service() {
  if is_up "$1" && [[ $1 != rabbitmq || $ENGINE == docker || -n $(epmd_pid) ]]; then return; fi
  if [[ $ENGINE == docker ]]; then compose up -d --wait --quiet-pull "$1" >&2; else "start_$1"; fi
}

# start_services SERVICE...: at the same time. Another program can take a port between our choice
# and the server's start; with a port lost, new ones are tried.
start_services() {
  local attempt service pids failed
  for attempt in 1 2 3; do
    choose_ports
    pids=() failed=''
    for service in "$@"; do
      start_service "$service" &
      pids+=($!)
    done
    for service in "${pids[@]}"; do wait "$service" || failed=yes; done
    if [[ -z $failed ]]; then return; fi
    if ! lost_a_port "$@"; then return 1; fi
    say "a port was taken meanwhile; attempt $attempt of 3 failed"
  done
  return 1
}

lost_a_port() {
  local service
  for service in "$@"; do
    if is_running "$service"; then continue; fi
    case $service in
      postgres) port_taken "$PG_PORT" && return ;;
      rabbitmq) { port_taken "$AMQP_PORT" || port_taken "$DIST_PORT"; } && return ;;
    esac
  done
  return 1
}

# stop_service SERVICE [--immediate|--kill]
stop_service() {
  local how=${2:-} signal=TERM pid
  if ! is_running "$1"; then return; fi
  case $1$how in
    *--kill) signal=KILL ;;
    postgres--immediate) signal=QUIT ;;
    postgres) signal=INT ;;
    rabbitmq) ;;
    *) die "$1 has no $how" ;;
  esac
  if [[ $ENGINE == docker ]]; then
    if [[ -n $how ]]; then compose kill -s "SIG$signal" "$1" >&2; else compose stop "$1" >&2; fi
    return
  fi
  pid=$(service_pid "$1")
  wake "$(service_folder "$1")"
  end_process "$pid" "$signal"
}

stop_epmd() {
  local pid
  if pid=$(epmd_pid); then end_process "$pid" TERM; fi
}

stop_all() {
  stop_service postgres &
  local first=$!
  stop_service rabbitmq
  wait "$first"
  if [[ $ENGINE == native ]]; then stop_epmd; fi
}

# --- commands ----------------------------------------------------------------------------------

# Two commands that change something take turns. Released when this process ends.
take_turn() {
  mkdir -p "$CHECKOUT/target"
  exec 9>"$CHECKOUT/target/.services.lock"
  if ! flock -n 9; then
    say 'waiting for another services.sh of this checkout'
    flock 9
  fi
}

remember_issued() {
  local service
  for service in postgres rabbitmq; do
    if ! grep -qsxF -- "$(url_of "$service")" "$ISSUED"; then
      (umask 077 && url_of "$service" >>"$ISSUED")
    fi
  done
}

command_up() {
  local services
  take_turn
  open_home || true
  mapfile -t services < <(ours)
  if ((${#services[@]})); then
    choose_engine
    make_home
    start_services "${services[@]}"
    remember_issued
  fi
  command_status >&2
}

command_down() {
  take_turn
  if ! open_home; then rm -f "$LINK"; return; fi
  stop_all
  if [[ ${1:-} != --purge ]]; then return; fi
  if [[ $ENGINE == docker ]]; then compose down --volumes >&2; fi
  rm -rf "$HOME_DIR"
  rm -f "$LINK" "$ISSUED"
}

command_env() {
  local service url
  open_home || true
  for service in postgres rabbitmq; do
    if ! url=$(given_url "$service"); then
      if [[ -z $HOME_DIR ]] || ! is_up "$service"; then die "$service is not up: run deploy/services.sh up"; fi
      url=$(url_of "$service")
    fi
    case $service in
      postgres) printf 'export DATABASE_URL=%q\n' "$url" ;;
      rabbitmq) printf 'export AMQP_URL=%q\n' "$url" ;;
    esac
  done
}

command_status() {
  local service down=0
  open_home || true
  if (($# == 0)); then set -- postgres rabbitmq; fi
  for service; do status_of "$service" || down=1; done
  return "$down"
}

status_of() {
  local url address
  if url=$(given_url "$1"); then
    read -r -a address < <(address_of "$url")
    if given_answers "${address[@]}"; then
      printf '%-9s up    %s:%s (given)\n' "$1" "${address[@]}"
      return
    fi
    printf '%-9s down  %s:%s (given) does not answer\n' "$1" "${address[@]}"
  elif [[ -n $HOME_DIR ]] && is_up "$1"; then
    url=$(url_of "$1")
    printf '%-9s up    127.0.0.1:%s (private, pid %s)\n' "$1" "$(address_of "$url" | cut -d' ' -f2)" "$(service_pid "$1")"
    return
  else
    printf '%-9s down\n' "$1"
  fi
  return 1
}

given_answers() { if [[ $1 == /* ]]; then [[ -S $1/.s.PGSQL.$2 ]]; else answers "$1" "$2"; fi; }

# one_service COMMAND SERVICE [OPTION]
one_service() {
  local service=${2:-}
  [[ $service == postgres || $service == rabbitmq ]] || { usage >&2; exit 2; }
  if given_url "$service" >/dev/null; then die "$service is given by its URL: not ours to $1"; fi
  open_home || die 'nothing was started here: run deploy/services.sh up'
  if [[ $1 == pid ]]; then service_pid "$service"; return; fi
  take_turn
  if [[ $1 != start ]]; then stop_service "$service" "${3:-}"; fi
  if [[ $1 == stop && $service == rabbitmq && -z ${3:-} && $ENGINE == native ]]; then stop_epmd; fi
  if [[ $1 != stop ]]; then
    start_services "$service"
    remember_issued
  fi
}

case ${1:-} in
  up) command_up ;;
  down) command_down "${2:-}" ;;
  env) command_env ;;
  status) command_status "${@:2}" ;;
  start | stop | restart | pid) one_service "$@" ;;
  rabbitmqctl) open_home && rabbitmqctl "${@:2}" ;;
  help | --help | -h) usage ;;
  *) usage >&2; exit 2 ;;
esac

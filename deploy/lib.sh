# shellcheck shell=bash disable=SC2034 # what is set here is used by the scripts that source it
# Helpers shared by the scripts of this folder and .ci/run. Source it; it runs nothing by itself.

# The checkout, whatever the caller's working directory is.
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly CHECKOUT

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() { say "$@"; exit 1; }

# --- processes ---------------------------------------------------------------------------------

# Sets BECOME to the words that run a command as that user. An array and not a function, because
# setpriv execs: the pid we note down is then the server's and not a wrapper's.
become() {
  BECOME=()
  if [[ $EUID -eq 0 && $1 != root ]]; then
    BECOME=(setpriv --reuid="$1" --regid="$(id -g "$1")" --init-groups --)
  fi
}

# A server must not inherit our locks (it would hold them for its lifetime) or a caller's pipe.
close_inherited_files() {
  local fd
  for fd in "/proc/$BASHPID/fd"/*; do
    fd=${fd##*/}
    if ((fd > 2)); then eval "exec $fd>&-"; fi
  done
}

# The pid in a pid file, if that process works in the given folder. A number alone proves nothing:
# after a reboot or a long day it may belong to anybody.
pid_in_folder() {
  local pid
  pid=$(head -n1 "$1" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ && $(readlink "/proc/$pid/cwd" 2>/dev/null) == "$2" ]] || return 1
  printf '%s\n' "$pid"
}

# Every process working in a folder: children outlive a parent killed with -9 for a moment.
pids_working_in() {
  local folder
  while read -r process folder; do
    if [[ $folder == "$1" ]]; then printf '%s\n' "${process//[!0-9]/}"; fi
  done < <(find /proc/[0-9]*/cwd -maxdepth 0 -printf '%h %l\n' 2>/dev/null)
}

is_frozen() { grep -qs '^State:.*stopped' "/proc/$1/status"; }

# Ends a SIGSTOP for every process working in a folder: a frozen one can neither answer nor stop.
wake() {
  local pids
  mapfile -t pids < <(pids_working_in "$1")
  if ((${#pids[@]})); then kill -CONT "${pids[@]}" 2>/dev/null || true; fi
}

# For what a killed parent left behind.
kill_leftovers() {
  local pids
  wake "$1"
  until_true 5 nobody_in "$1" && return
  mapfile -t pids < <(pids_working_in "$1")
  kill -KILL "${pids[@]}" 2>/dev/null || true
  until_true 5 nobody_in "$1"
}

nobody_in() { [[ -z $(pids_working_in "$1") ]]; }
# A zombie counts as gone (it has no working folder): a container's first process may never reap it.
gone() { [[ ! -e /proc/$1/cwd ]]; }

# end_process PID SIGNAL: with patience, then without.
end_process() {
  kill "-$2" "$1" 2>/dev/null || return 0
  if ! until_true 60 gone "$1"; then
    say "process $1 ignores SIG$2; killing it"
    kill -KILL "$1" 2>/dev/null || true
    until_true 10 gone "$1"
  fi
}

# until_true SECONDS COMMAND...: polls, because neither server tells us by itself.
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# --- ports -------------------------------------------------------------------------------------

# Looks in the kernel's table rather than connecting: a probe would disturb whoever listens there.
port_taken() {
  local hex
  hex=$(printf '%04X' "$1")
  grep -qE "^ *[0-9]+: [0-9A-F]+:$hex [0-9A-F]+:0000 0A" /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# Below the ephemeral range, so that an outgoing connection cannot take it before we listen.
free_port() {
  local port
  while :; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 10000))
    if ! port_taken "$port"; then break; fi
  done
  printf '%s\n' "$port"
}

# shellcheck disable=SC2016 # the inner shell expands them
answers() { timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null; }

# "HOST PORT" of a URL; "HOST" is a folder for a Postgres socket.
address_of() {
  local url=$1 rest host port=5672
  case $url in postgres*) port=5432 ;; amqps*) port=5671 ;; esac
  rest=${url#*://}
  host=${rest%%[/?]*}
  host=${host##*@}
  if [[ $host =~ ^(.*):([0-9]+)$ ]]; then host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}; fi
  if [[ $url =~ [?\&]port=([0-9]+) ]]; then port=${BASH_REMATCH[1]}; fi
  if [[ $url =~ [?\&]host=([^\&]+) ]]; then host=${BASH_REMATCH[1]//%2[Ff]//}; fi
  host=${host#[}
  printf '%s %s\n' "${host%]}" "$port"
}

# --- packages ----------------------------------------------------------------------------------

readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_ASIDE=$POLICY.before-campaign-dispatch
readonly NO_CLUSTER=/etc/postgresql-common/createcluster.d/campaign-dispatch.conf

can_install() { [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; }

# Also heals what an installation killed with -9 left behind.
restore_policy() {
  if grep -qs 'campaign-dispatch' "$POLICY"; then rm -f "$POLICY"; fi
  if [[ -e $POLICY_ASIDE ]]; then mv -f "$POLICY_ASIDE" "$POLICY"; fi
  rm -f "$NO_CLUSTER"
}

# Debian packages start their servers and create a 'main' cluster; this machine may have use for
# the usual ports, and we only want the programs.
forbid_services() {
  restore_policy
  if [[ -e $POLICY ]]; then mv "$POLICY" "$POLICY_ASIDE"; fi
  printf '#!/bin/sh\n# campaign-dispatch: no service starts while its package is installed\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
  mkdir -p "$(dirname "$NO_CLUSTER")"
  echo 'create_main_cluster = false' >"$NO_CLUSTER"
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold \
    install -y --no-install-recommends "$@"
}

# Why an installation fails at first: the package lists are missing or too old, or an earlier one was
# interrupted half-way (our own, with Ctrl-C).
mend_apt() {
  DEBIAN_FRONTEND=noninteractive dpkg --force-confold --configure -a || true
  apt-get update
}

# The policy above covers today; without this the broker would start with the machine's next boot.
keep_off_at_boot() {
  if [[ " $* " == *' rabbitmq-server '* ]] && command -v systemctl >/dev/null; then
    systemctl --quiet disable rabbitmq-server.service epmd.service epmd.socket 2>/dev/null || true
  fi
}

# install_packages CHECK PACKAGE...: CHECK is run again once we hold the lock, for another clone
# may have installed the same packages while we waited.
install_packages() (
  check=$1
  shift
  mkdir -p /run/lock
  exec 7>/run/lock/campaign-dispatch.packages
  flock 7
  if "$check"; then exit 0; fi
  log=$(mktemp)
  trap 'restore_policy; rm -f "$log"' EXIT
  trap 'exit 130' INT TERM HUP
  forbid_services
  say "installing $* (a minute or so)"
  if ! apt_install "$@" >"$log" 2>&1; then
    if ! { mend_apt && apt_install "$@"; } >>"$log" 2>&1; then
      tail -n 20 "$log" >&2
      die "apt-get could not install $*"
    fi
  fi
  keep_off_at_boot "$@"
) </dev/null

# --- what a build needs ------------------------------------------------------------------------

have_c_compiler() { command -v cc >/dev/null; }

need_cargo() {
  command -v cargo >/dev/null ||
    die 'cargo is missing: install Rust as https://rustup.rs says, then open a new shell'
  # ring compiles C.
  if have_c_compiler; then return; fi
  can_install || die 'a C compiler (cc) is missing: install gcc and libc6-dev, or run this as root'
  install_packages have_c_compiler gcc libc6-dev
}

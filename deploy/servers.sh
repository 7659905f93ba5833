# shellcheck shell=bash disable=SC2164 # runs under the set -e of services.sh
# PostgreSQL and RabbitMQ as private processes of one checkout: the part of services.sh that knows
# the two servers. Expects lib.sh, HOME_DIR, the ports and NODE; sets nothing but BECOME.

# --- whose processes and folders ---------------------------------------------------------------

# As root each server runs as the user its package made (Postgres refuses root), without root as us.
service_user() {
  if [[ $EUID -ne 0 ]]; then id -un
  elif [[ -d $HOME_DIR/$1 ]]; then stat -c %U "$HOME_DIR/$1"
  elif id -u "$1" >/dev/null 2>&1; then printf '%s\n' "$1"
  elif [[ $1 == rabbitmq ]]; then echo root
  else die 'PostgreSQL refuses to run as root: add a user named postgres (useradd --system postgres)'
  fi
}

own_folder() {
  mkdir -p "$HOME_DIR/$1"
  if [[ $EUID -eq 0 ]]; then chown "$2:" "$HOME_DIR/$1"; fi
  chmod 700 "$HOME_DIR/$1"
}

# Where its processes work.
service_folder() {
  if [[ $1 == postgres ]]; then echo "$HOME_DIR/postgres/data"; else echo "$HOME_DIR/rabbitmq/work"; fi
}

# --- PostgreSQL --------------------------------------------------------------------------------

# Debian keeps the server programs off PATH. With data there, only its own version will do.
pg_bin() {
  local wanted folder
  wanted=$(cat "$HOME_DIR/postgres/data/PG_VERSION" 2>/dev/null || true)
  while read -r folder; do
    version=$("$folder/postgres" --version 2>/dev/null | grep -oE '[0-9]+' | head -n1) || continue
    if [[ -x $folder/initdb ]] && ((version >= 15)) && [[ -z $wanted || $wanted == "$version" ]]; then
      printf '%s\n' "$folder"
      return
    fi
  done < <(compgen -G '/usr/lib/postgresql/*/bin' | sort -rV
    compgen -G '/usr/pgsql-*/bin' | sort -rV
    dirname "$(readlink -f "$(command -v postgres || echo /none/postgres)")")
  return 1
}

pg_pid() { pid_in_folder "$HOME_DIR/postgres/data/postmaster.pid" "$HOME_DIR/postgres/data"; }

# Built beside its final place: an interrupted initdb must not look like a database.
create_database() {
  local bin=$1 new=$HOME_DIR/postgres/data.new
  rm -rf "$new"
  "${BECOME[@]}" "$bin/initdb" -D "$new" -U postgres -A trust --no-sync --locale=C -E UTF8 >/dev/null
  # Nothing has listened under "trust" yet. Only loopback comes in, and the superuser never.
  printf 'host all postgres all reject\nhost all all 127.0.0.1/32 scram-sha-256\n' >"$new/pg_hba.conf"
  # CREATEDB and CREATEROLE are for tests; pg_monitor and pg_checkpoint for bench.sh.
  "${BECOME[@]}" "$bin/postgres" --single -F -D "$new" -c exit_on_error=on -c log_checkpoints=off postgres >/dev/null <<SQL
CREATE ROLE dispatch LOGIN CREATEDB CREATEROLE PASSWORD '$(<"$HOME_DIR/password")'
GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO dispatch
CREATE DATABASE dispatch OWNER dispatch
SQL
  mv "$new" "$HOME_DIR/postgres/data"
}

# Written at every start, so that old data gets new settings. Durability is never traded away:
# the promises are proved against this server.
write_postgres_settings() {
  local bin=$1 compression=on
  if "$bin/postgres" -C wal_compression -c wal_compression=lz4 -D "$HOME_DIR/postgres/data" >/dev/null 2>&1; then
    compression=lz4
  fi
  cat >"$HOME_DIR/postgres/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $PG_PORT
unix_socket_directories = ''          # a deep checkout would exceed a socket path's length
max_connections = 200
shared_buffers = 256MB
effective_io_concurrency = 100
random_page_cost = 1.1
fsync = on
synchronous_commit = on
wal_compression = $compression
max_wal_size = 4GB
checkpoint_timeout = 15min
autovacuum_vacuum_cost_limit = 2000
autovacuum_vacuum_scale_factor = 0.05
autovacuum_analyze_scale_factor = 0.05
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
CONF
}

start_postgres() {
  local bin data=$HOME_DIR/postgres/data log=$HOME_DIR/postgres/postgres.log user
  if pg_pid >/dev/null; then wait_until_up postgres; return; fi
  bin=$(pg_bin)
  user=$(service_user postgres)
  own_folder postgres "$user"
  become "$user"
  cd "$HOME_DIR/postgres"
  # After a kill -9 its children may still write; only when they are gone is the pid file stale.
  kill_leftovers "$data"
  rm -f "$data/postmaster.pid"
  if [[ ! -d $data ]]; then create_database "$bin"; fi
  write_postgres_settings "$bin"
  if ! (
    close_inherited_files
    exec "${BECOME[@]}" env -i PATH="$PATH" LC_ALL=C "$bin/pg_ctl" start -s -w -t 120 -D "$data" -l "$log" </dev/null
  ) >/dev/null 2>&1; then
    say 'postgres did not start; the end of its log:'
    tail -n 8 "$log" >&2
    return 1
  fi
}

# --- RabbitMQ ----------------------------------------------------------------------------------

# Not the wrappers on PATH: Debian's switch the user and change into the system's own data folder.
rabbit_sbin() {
  local folder
  while read -r folder; do
    if [[ -e $folder/rabbitmq-env && ! $folder =~ rabbitmq_server-(3\.[0-9]|[0-2]\.[0-9]+)\. ]]; then
      printf '%s\n' "$folder"
      return
    fi
  done < <(compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin' | sort -rV
    dirname "$(readlink -f "$(command -v rabbitmq-server || echo /none/rabbitmq)")")
  return 1
}

rabbit_pid() { pid_in_folder "$HOME_DIR/rabbitmq/node.pid" "$HOME_DIR/rabbitmq/work"; }
epmd_pid() { pid_in_folder "$HOME_DIR/rabbitmq/epmd.pid" "$HOME_DIR/rabbitmq/epmd"; }

# Runs a program of RabbitMQ in its own small world: its own HOME (cookie), no system configuration.
rabbit_exec() {
  local base=$HOME_DIR/rabbitmq
  exec "${BECOME[@]}" env -i PATH="$PATH" LC_ALL=C.UTF-8 HOME="$base/home" \
    ERL_EPMD_PORT="$EPMD_PORT" ERL_EPMD_ADDRESS=127.0.0.1 ERL_CRASH_DUMP="$base/log/erl_crash.dump" \
    RABBITMQ_NODENAME="$NODE" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$AMQP_PORT" \
    RABBITMQ_DIST_PORT="$DIST_PORT" RABBITMQ_MNESIA_BASE="$base/mnesia" RABBITMQ_LOG_BASE="$base/log" \
    RABBITMQ_CONFIG_FILE="$base/rabbitmq.conf" RABBITMQ_CONF_ENV_FILE="$base/none" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$base/none.config" RABBITMQ_ENABLED_PLUGINS_FILE="$base/enabled_plugins" \
    RABBITMQ_GENERATED_CONFIG_DIR="$base/generated" RABBITMQ_SCHEMA_DIR="$base/schema" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
    RABBITMQ_CTL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
    RABBITMQ_ALLOW_INPUT=1 "$@"
}

# spawn PID_FILE WORKING_FOLDER LOG COMMAND...: its own session, so that Ctrl-C here does not reach it.
spawn() {
  local pid_file=$1 folder=$2 log=$3
  shift 3
  (
    cd "$folder"
    close_inherited_files
    # Open files as far as allowed, but not the billion some containers allow: Erlang sizes tables by it.
    ulimit -Sn "$(($(ulimit -Hn | sed s/unlimited/65536/) < 65536 ? $(ulimit -Hn) : 65536))"
    printf '%s\n' "$BASHPID" >"$pid_file"
    BECOME=(setsid "${BECOME[@]}")
    rabbit_exec "$@" </dev/null >>"$log" 2>&1
  ) &
}

start_rabbitmq() {
  local base=$HOME_DIR/rabbitmq folder user sbin
  user=$(service_user rabbitmq)
  sbin=$(rabbit_sbin)
  for folder in '' /home /mnesia /log /work /epmd /generated /schema; do own_folder "rabbitmq$folder" "$user"; done
  become "$user"
  printf '[].\n' >"$base/enabled_plugins"
  # Quorum queues keep up to three times the WAL in memory.
  printf '%s\n' 'loopback_users = none' 'vm_memory_high_watermark.absolute = 1GB' \
    'disk_free_limit.absolute = 50MB' 'log.file.level = warning' \
    'raft.wal_max_size_bytes = 64000000' >"$base/rabbitmq.conf"
  chmod 644 "$base/enabled_plugins" "$base/rabbitmq.conf"
  if ! epmd_pid >/dev/null; then
    spawn "$base/epmd.pid" "$base/epmd" "$base/log/epmd.log" epmd
    until_true 10 port_taken "$EPMD_PORT" || { say 'epmd did not start'; return 1; }
  fi
  if ! rabbit_pid >/dev/null; then
    kill_leftovers "$base/work"
    # ALLOW_INPUT makes the wrapper exec, so the pid is the broker's; it needs no input, though.
    spawn "$base/node.pid" "$base/work" "$base/log/startup.log" "$sbin/rabbitmq-server" -noinput
    sleep 0.2
  fi
  wait_until_up rabbitmq
}

rabbitmqctl() {
  become "$(service_user rabbitmq)"
  (cd "$HOME_DIR/rabbitmq/work" && rabbit_exec "$(rabbit_sbin)/rabbitmqctl" "$@")
}

#!/usr/bin/env bash
# Measures the product against its budget (real services, release build, bounded in count and time).
#
#   deploy/bench.sh drain [--n 50000] [--rounds 3] [--json]
#
# drain: due messages of 8 unlimited numbers -> an nginx stub -> accepted rows, claims and settles durable.
# The time is from the moment the messages are due to the commit of the last accepted row.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

N=50000 ROUNDS=3 JSON=false LEAD=3
WORK=$(mktemp -d "${TMPDIR:-/tmp}/campaign-dispatch-bench.XXXXXX")
PIDS=()

finish() {
  local pid
  for pid in "${PIDS[@]}"; do end_process "$pid" TERM 2>/dev/null || true; done
  [[ -n ${DATABASE:-} ]] && psql -qX "$ADMIN_URL" -c "DROP DATABASE IF EXISTS $DATABASE WITH (FORCE)" >/dev/null 2>&1
  rm -rf "$WORK"
}
trap finish EXIT

# CPU seconds of a process and its children, user and system.
cpu_of() {
  local pid total=0 ticks
  for pid in "$@"; do
    ticks=$(awk '{sub(/^.*\) /, ""); print $12 + $13 + $14 + $15}' "/proc/$pid/stat" 2>/dev/null || echo 0)
    total=$((total + ticks))
  done
  awk -v t="$total" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", t / hz }'
}

# Of the private server; an existing one may be elsewhere, and counts as 0.
postgres_cpu() {
  if [[ -n $POSTMASTER ]]; then
    # shellcheck disable=SC2046 # one word a process
    cpu_of $(pgrep -P "$POSTMASTER") "$POSTMASTER"
  else
    echo 0
  fi
}

sql() { psql -qXAt "$DATABASE_URL" "$@"; }
dispatch() { "$BINARY" "$@"; }

start_stub() {
  command -v nginx >/dev/null || install_packages nginx-light
  STUB_PORT=$(free_port)
  sed -e "s#@DIR@#$WORK#g" -e "s/@PORT@/$STUB_PORT/" "$CHECKOUT/deploy/bench/nginx.conf.in" >"$WORK/nginx.conf"
  nginx -p "$WORK" -c "$WORK/nginx.conf" 2>>"$WORK/nginx.log"
  PIDS+=("$(cat "$WORK/nginx.pid")")
}

write_registry() {
  local i
  {
    printf '{"accounts":[{"name":"bench","portfolio":"bench","channel":"whatsapp","provider":"whatsapp_cloud","base_url":"http://127.0.0.1:%s",' "$STUB_PORT"
    printf '"api_version":"v25.0","waba_id":"1","credentials":{"access_token":{"env":"BENCH_SECRET"},"app_secret":{"env":"BENCH_SECRET"},"verify_token":{"env":"BENCH_SECRET"}}}],"numbers":['
    for i in 1 2 3 4 5 6 7 8; do
      printf '%s{"account":"bench","business_number":"+8131234000%d","provider_number_id":"100%d"}' "${SEP:-}" "$i" "$i"
      SEP=,
    done
    printf '],"templates":[{"account":"bench","name":"offer","language":"ja","category":"marketing","status":"approved","parameter_format":"named",'
    printf '"components":[{"type":"BODY","text":"{{name}}様、{{shop}}です","example":{"body_text_named_params":[{"param_name":"name","example":"a"},{"param_name":"shop","example":"b"}]}}]}]}'
  } >"$WORK/registry.json"
}

prepare() {
  need_cargo
  (cd "$CHECKOUT" && SQLX_OFFLINE=true cargo build --release --quiet)
  BINARY=${CARGO_TARGET_DIR:-$CHECKOUT/target}/release/campaign-dispatch
  "$CHECKOUT/deploy/services.sh" up >&2
  eval "$("$CHECKOUT/deploy/services.sh" env)"
  ADMIN_URL=$DATABASE_URL
  POSTMASTER=$("$CHECKOUT/deploy/services.sh" pid postgres 2>/dev/null || true)
  DATABASE=bench_$$
  psql -qX "$ADMIN_URL" -c "CREATE DATABASE $DATABASE"
  DATABASE_URL=${ADMIN_URL%/*}/$DATABASE
  export DATABASE_URL AMQP_URL
  export DISPATCH__BROKER__PREFIX=dispatch-bench
  export BENCH_SECRET=bench DISPATCH__SECRETS__KEY=0000000000000000000000000000000000000000000000000000000000000000
  export DISPATCH__HTTP__LISTEN=127.0.0.1:$(free_port) DISPATCH__LOG__FILTER=${DISPATCH__LOG__FILTER:-warn}
  export DISPATCH__CLIENT__URL=http://$DISPATCH__HTTP__LISTEN
  dispatch migrate >&2
  DISPATCH__CLIENT__TOKEN=$(dispatch tokens create --name bench --scope admin,operate,publish,read,pii | grep -o 'cdt_[A-Za-z0-9_-]*' | head -1)
  export DISPATCH__CLIENT__TOKEN
  start_stub
  write_registry
  "$BINARY" serve >"$WORK/serve.log" 2>&1 &
  SERVE=$!
  PIDS+=("$SERVE")
  until_true 30 answers 127.0.0.1 "${DISPATCH__HTTP__LISTEN##*:}" || die "serve did not start: $(tail -3 "$WORK/serve.log")"
  dispatch accounts apply "$WORK/registry.json" >&2
}

drain_round() {
  sql -v n="$N" -v lead="$LEAD" -f "$CHECKOUT/deploy/bench/drain.sql" >/dev/null
  sql -c CHECKPOINT >/dev/null
  local due before after left=1 began
  due=$(sql -c "SELECT min(wake_at) FROM work")
  began=$SECONDS
  until [[ $(sql -c "SELECT now() >= '$due'") == t ]]; do sleep 0.01; done
  before="$(cpu_of "$SERVE") $(postgres_cpu)"
  while ((left > 0)); do
    ((SECONDS - began < 300)) || die "not drained within 300 s: $left left; $(tail -3 "$WORK/serve.log")"
    sleep 0.05
    left=$(sql -c "SELECT coalesce(sum(pending), 0) FROM batch_tally")
  done
  after="$(cpu_of "$SERVE") $(postgres_cpu)"
  sql -F' ' -c "SELECT count(*), extract(epoch FROM max(accepted_at) - '$due') FROM message WHERE state = 'accepted' AND accepted_at >= '$due'" |
    awk -v b="$before" -v a="$after" '{ split(b, x, " "); split(a, y, " ");
      printf "%d %.3f %.0f %.3f %.3f\n", $1, $2, $1 / $2, (y[1] - x[1]) * 10000 / $1, (y[2] - x[2]) * 10000 / $1 }'
}

drain() {
  prepare
  local round line rates=()
  for ((round = 1; round <= ROUNDS; round++)); do
    line=$(drain_round)
    read -r count seconds rate worker postgres <<<"$line"
    ((count == N / 8 * 8)) || die "accepted $count of $N"
    say "round $round: $count messages in $seconds s = $rate/s, worker $worker, postgres $postgres CPU-s per 10 000"
    rates+=("$rate $worker $postgres")
  done
  read -r rate worker postgres < <(printf '%s\n' "${rates[@]}" | sort -n | sed -n "$(((ROUNDS + 1) / 2))p")
  if $JSON; then
    printf '{"bench":"drain","messages":%d,"rounds":%d,"messages_per_s":%s,"worker_cpu_s_per_10k":%s,"postgres_cpu_s_per_10k":%s}\n' "$N" "$ROUNDS" "$rate" "$worker" "$postgres"
  else
    printf 'bench drain: %s messages/s (median of %d rounds of %d; worker %s and postgres %s CPU-s per 10 000)\n' "$rate" "$ROUNDS" "$N" "$worker" "$postgres"
  fi
}

[[ ${1:-} == drain ]] || die "usage: deploy/bench.sh drain [--n N] [--rounds R] [--json]"
shift
while (($#)); do
  case $1 in
    --n) N=$2; shift ;;
    --rounds) ROUNDS=$2; shift ;;
    --json) JSON=true ;;
    *) die "unknown option $1" ;;
  esac
  shift
done
drain

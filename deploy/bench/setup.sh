# shellcheck shell=bash disable=SC2034,SC2154,SC2016,SC2119,SC2120 # what is set here is used by the other parts
# What a bench runs on: a build, services, a database of its own, a stub or a simulator, and `serve`.

SERVE='' STUB='' SIMULATOR='' DATABASES=()

finish() {
  local status=$? database
  trap '' INT TERM HUP
  stop_process "$SERVE"
  stop_process "$SIMULATOR"
  stop_process "$STUB"
  for database in "${DATABASES[@]}"; do psql -qX "$ADMIN_URL" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" >/dev/null 2>&1 || true; done
  rm -rf "$WORK"
  exit "$status"
}

stop_process() {
  if [[ -n $1 ]]; then end_process "$1" TERM; fi
}

sql() { psql -qXAt -F' ' -v ON_ERROR_STOP=1 "$DATABASE_URL" "$@"; }
dispatch() { "$BINARY" "$@"; }
text_in() { if [[ $1 =~ \"$2\":\ *\"([^\"]*)\" ]]; then printf '%s\n' "${BASH_REMATCH[1]}"; fi; }
number_in() { if [[ $1 =~ \"$2\":\ *([0-9.]+) ]]; then printf '%s\n' "${BASH_REMATCH[1]}"; else echo 0; fi; }

have_nginx() { command -v nginx >/dev/null && [[ -e /usr/lib/nginx/modules/ngx_http_echo_module.so ]]; }

prepare() {
  local variables
  need_cargo
  (cd "$CHECKOUT" && SQLX_OFFLINE=true cargo build --locked --release --quiet --features bench)
  BINARY=${CARGO_TARGET_DIR:-$CHECKOUT/target}/release/campaign-dispatch
  LOAD=${CARGO_TARGET_DIR:-$CHECKOUT/target}/release/load
  "$CHECKOUT/deploy/services.sh" up >&2
  # Not eval "$(...)": that would hide a failure of the command.
  variables=$("$CHECKOUT/deploy/services.sh" env)
  eval "$variables"
  ADMIN_URL=$DATABASE_URL
  POSTMASTER=$("$CHECKOUT/deploy/services.sh" pid postgres 2>/dev/null || true)
  BROKER_PID=$("$CHECKOUT/deploy/services.sh" pid rabbitmq 2>/dev/null || true)
  export DATABASE_URL AMQP_URL BENCH_SECRET=bench DISPATCH__BROKER__PREFIX=dispatch-bench
  export DISPATCH__SECRETS__KEY=0000000000000000000000000000000000000000000000000000000000000000
  export DISPATCH__LOG__FILTER=${DISPATCH__LOG__FILTER:-warn} DISPATCH__HTTP__REQUESTS_PER_S=1000
  if [[ -n $POSTMASTER ]]; then fill_log; fi
  new_database bench_$$
  machine_is
}

# A server that has run for a while writes over old files of its log. A new one makes each of them, 16 MiB, in front of the
# commit that comes to it: every commit of that moment waits for 0.1 to 0.5 s.
fill_log() {
  local files
  files=$(psql -qXAt "$ADMIN_URL" -c 'SELECT count(*) FROM pg_ls_waldir()')
  if ((files >= 64)); then return; fi
  psql -qXAt "$ADMIN_URL" -c "SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', 1000000)))
    FROM generate_series(1, 1300)" -c CHECKPOINT >/dev/null
}

# The servers of the bench: by the URL they were given or started with, not by that of the bench's own database, which
# services.sh would take for somebody else's.
services() { DATABASE_URL=$ADMIN_URL "$CHECKOUT/deploy/services.sh" "$@"; }

# A database of its own, migrated, with a token that also registers the producer.
new_database() {
  psql -qX "$ADMIN_URL" -c "CREATE DATABASE $1"
  DATABASES+=("$1")
  use_database "$1"
  dispatch migrate >&2
  TOKENS[${#TOKENS[@]}]="$1 $(dispatch tokens create --name bench --scope admin,operate,publish,read,pii --producer bench | grep -o 'cdt_[A-Za-z0-9_-]*' | head -1)"
  use_database "$1"
}

TOKENS=()
use_database() {
  local pair
  DATABASE_URL=${ADMIN_URL%/*}/$1
  for pair in "${TOKENS[@]}"; do
    if [[ ${pair% *} == "$1" ]]; then export DISPATCH__CLIENT__TOKEN=${pair#* }; fi
  done
}

# An nginx that takes everything, at once or after DELAY ms.
start_stub() {
  have_nginx || install_packages have_nginx nginx-light libnginx-mod-http-echo
  STUB_PORT=$(free_port)
  local answer="return 200 '@ANSWER@'"
  if ((DELAY)); then answer="echo_read_request_body; echo_sleep $(calc "$DELAY / 1000" %.3f); echo '@ANSWER@'"; fi
  sed -e "s#@DIR@#$WORK#g" -e "s/@PORT@/$STUB_PORT/" -e "s#@REPLY@#$answer#" \
    -e 's#@ANSWER@#{"messaging_product":"whatsapp","contacts":[{"input":"x","wa_id":"x"}],"messages":[{"id":"wamid.$request_id"}]}#' \
    "$CHECKOUT/deploy/bench/nginx.conf.in" >"$WORK/nginx.conf"
  nginx -p /usr/share/nginx -c "$WORK/nginx.conf" 2>>"$WORK/nginx.log" || die "nginx did not start: $(tail -2 "$WORK/nginx.log")"
  until_true 10 test -s "$WORK/nginx.pid" || die 'nginx did not start'
  STUB=$(<"$WORK/nginx.pid")
  PROVIDER_URL=http://127.0.0.1:$STUB_PORT
}

# write_registry LIMIT...: one number for each, 0 is unlimited; three templates.
write_registry() {
  local i=0 limit separator=''
  local body='{"type":"BODY","text":"{{name}}様、{{shop}}です","example":{"body_text_named_params":[{"param_name":"name","example":"a"},{"param_name":"shop","example":"b"}]}}'
  local otp='{"type":"BODY","add_security_recommendation":true},{"type":"BUTTONS","buttons":[{"type":"OTP","otp_type":"COPY_CODE"}]}'
  {
    printf '{"accounts":[{"name":"bench","portfolio":"bench","channel":"whatsapp","provider":"whatsapp_cloud","base_url":"%s",' "$PROVIDER_URL"
    printf '"api_version":"v25.0","waba_id":"1","credentials":{"access_token":{"env":"BENCH_SECRET"},"app_secret":{"env":"BENCH_SECRET"},"verify_token":{"env":"BENCH_SECRET"}}}],"numbers":['
    for limit; do
      i=$((i + 1))
      printf '%s{"account":"bench","business_number":"+8131234%04d","provider_number_id":"1%04d"' "$separator" "$i" "$i"
      if ((limit)); then printf ',"limit":%d' "$limit"; fi
      printf '}'
      separator=,
    done
    printf '],"templates":['
    printf '{"account":"bench","name":"offer","language":"ja","category":"marketing","status":"approved","parameter_format":"named","components":[%s]},' "$body"
    printf '{"account":"bench","name":"notice","language":"ja","category":"utility","status":"approved","parameter_format":"named","components":[%s]},' "$body"
    printf '{"account":"bench","name":"code","language":"ja","category":"authentication","status":"approved","parameter_format":"positional","components":[%s]}]}' "$otp"
  } >"$WORK/registry.json"
}

# start_serve [ARGUMENT...]: and waits until it answers.
start_serve() {
  DISPATCH__HTTP__LISTEN=127.0.0.1:$(free_port)
  DISPATCH__CLIENT__URL=http://$DISPATCH__HTTP__LISTEN
  export DISPATCH__HTTP__LISTEN DISPATCH__CLIENT__URL
  "$BINARY" serve "$@" >>"$WORK/serve.log" 2>&1 &
  SERVE=$!
  until_true 30 answers 127.0.0.1 "${DISPATCH__HTTP__LISTEN##*:}" || die "serve did not start: $(tail -3 "$WORK/serve.log")"
}

stop_serve() {
  stop_process "$SERVE"
  wait "$SERVE" 2>/dev/null || true
  SERVE=''
}

apply_registry() { dispatch accounts apply "$WORK/registry.json" >&2; }

# start_simulator LIMIT...: a provider with these numbers, and a `serve` that knows them and gets its callbacks.
start_simulator() {
  local hook
  SIM_PORT=$(free_port)
  PROVIDER_URL=http://127.0.0.1:$SIM_PORT
  write_registry "$@"
  start_serve
  apply_registry
  hook=$(text_in "$(dispatch accounts show bench --json)" hook_path)
  "$BINARY" simulate --registry "$WORK/registry.json" --listen "127.0.0.1:$SIM_PORT" --no-suffix-faults \
    --webhook "1=$DISPATCH__CLIENT__URL$hook" >"$WORK/simulate.log" 2>&1 &
  SIMULATOR=$!
  until_true 30 answers 127.0.0.1 "$SIM_PORT" || die "the simulator did not start: $(tail -3 "$WORK/simulate.log")"
}

# simulator PATH [METHOD]. HTTP/1.0, so that the answer ends with the connection.
simulator() {
  exec 4<>"/dev/tcp/127.0.0.1/$SIM_PORT"
  printf '%s /_sim/%s HTTP/1.0\r\nHost: localhost\r\n\r\n' "${2:-GET}" "$1" >&4
  sed '1,/^\r*$/d' <&4
  exec 4>&-
}

# fill N SECONDS LEAD: N messages over all numbers, or SECONDS' worth of each number's limit; due in LEAD seconds.
fill() {
  sql -v n="$1" -v seconds="$2" -v lead="$3" -f "$CHECKOUT/deploy/bench/drain.sql" >/dev/null
  sql -c CHECKPOINT >/dev/null
}

empty() { sql -c 'TRUNCATE work, message, batch, batch_tally, job, attempt, failed_message, sent_group, outbox' >/dev/null; }

# wait_until SECONDS PAUSE WANTED QUERY: the time (of the database's clock) when a count was reached. Asked over one
# connection: a new one for each look costs a core a tenth, of the two that are measured.
wait_until() {
  local began=$SECONDS found at
  coproc LOOKS { sql; }
  while :; do
    printf 'SELECT (%s), extract(epoch FROM clock_timestamp());\n' "$4" >&"${LOOKS[1]}"
    read -r found at <&"${LOOKS[0]}" || die "cannot ask: $4"
    if [[ $found == "$3" ]]; then break; fi
    ((SECONDS - began < $1)) || die "after $1 s $found instead of $3: $4; $(tail -3 "$WORK/serve.log")"
    sleep "$2"
  done
  printf '\\q\n' >&"${LOOKS[1]}"
  wait "$LOOKS_PID"
  printf '%s\n' "$at"
}

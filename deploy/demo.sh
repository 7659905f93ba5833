#!/usr/bin/env bash
# The whole journey once, on real services: a campaign for 1 000 people goes from a CSV through RabbitMQ to the provider
# (simulated) and back into the checklist; every count is then compared with what the provider saw.
#
#   deploy/demo.sh           stops at the end what it started
#   deploy/demo.sh --keep    leaves it running to look around; target/demo/env has what the commands need
#   deploy/demo.sh stop      stops what --keep left
#
# With DATABASE_URL or AMQP_URL set, those servers are used (and the database migrated). Exit code 0 only when nothing
# was lost, nothing doubled, and all counts agree.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly SERVICES=$CHECKOUT/deploy/services.sh
readonly WORK=$CHECKOUT/target/demo
# Background processes work in here: that is how a later run knows them.
readonly RUNNING=$WORK/running
readonly NUMBER=+81312345678 WABA=20000000000001 TEMPLATE=demo_spring_offer
# As a spreadsheet counts; see deploy/demo/recipients.sh.
readonly BAD_ROWS='102 203 304 405 506 607 708 809'
readonly AT_THE_CALL=131008
readonly BY_CALLBACK=(131026:026 131049:049 131050:050 130472:472 130403:403)
BEGAN=$EPOCHREALTIME
KEEP=false STARTED=() DISAGREEMENTS=0

# --- small tools -------------------------------------------------------------------------------

heading() { printf '\n== %s ==\n' "$*"; }
dispatch() { "$BINARY" "$@"; }
shown() { printf '$ campaign-dispatch %s\n' "$*"; dispatch "$@"; }
random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
seconds_since() { awk -v from="$1" -v to="$2" 'BEGIN { printf "%.1f", to - from }'; }

# number_in JSON KEY: the first number under that key; 0 when there is none.
number_in() {
  if [[ $1 =~ \"$2\":\ *([0-9]+) ]]; then printf '%s\n' "${BASH_REMATCH[1]}"; else echo 0; fi
}

text_in() {
  if [[ $1 =~ \"$2\":\ *\"([^\"]*)\" ]]; then printf '%s\n' "${BASH_REMATCH[1]}"; fi
}

# Asks the simulator what happened. HTTP/1.0, so that the answer ends with the connection.
simulator() {
  exec 4<>"/dev/tcp/127.0.0.1/$SIM_PORT"
  printf 'GET /_sim/%s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&4
  sed '1,/^\r*$/d' <&4
  exec 4>&-
}

# --- start and stop ----------------------------------------------------------------------------

stop_processes() {
  local pid pids
  mapfile -t pids < <(pids_working_in "$RUNNING")
  for pid in "${pids[@]}"; do end_process "$pid" TERM; done
}

stop_services() {
  local service
  for service in "${STARTED[@]}"; do "$SERVICES" stop "$service" || true; done
}

# An admin's token must not outlive the demo on a server that does.
revoke_token() {
  local id
  id=$(cat "$WORK/token" 2>/dev/null) || return 0
  timeout 10 "$BINARY" tokens revoke "$id" >/dev/null 2>&1 || true
  rm -f "$WORK/token"
}

finish() {
  local status=$?
  trap '' INT TERM HUP
  if $KEEP && ((status == 0)); then exit 0; fi
  revoke_token
  stop_processes
  stop_services
  exit "$status"
}

services_up() {
  local service variables
  for service in postgres rabbitmq; do
    if ! "$SERVICES" status "$service" >/dev/null; then STARTED+=("$service"); fi
  done
  "$SERVICES" up
  # Not eval "$(...)": that would hide a failure of the command.
  variables=$("$SERVICES" env)
  eval "$variables"
  printf '%s\n' "${STARTED[@]}" >"$WORK/started"
}

build() {
  need_cargo
  # The checked SQL is committed in .sqlx: a build must not depend on a migrated database.
  (cd "$CHECKOUT" && SQLX_OFFLINE=true cargo build --locked --release)
  BINARY=${CARGO_TARGET_DIR:-$CHECKOUT/target}/release/campaign-dispatch
}

# background LOG COMMAND...: in a session of its own, so that Ctrl-C reaches only us and we can stop in order.
background() {
  local log=$1
  shift
  (
    close_inherited_files
    cd "$RUNNING" && exec setsid "$@" </dev/null >"$log" 2>&1
  ) &
}

# The same secrets in each run: what was encrypted stays readable.
secrets() {
  if [[ ! -s $WORK/secrets ]]; then
    (
      umask 077
      printf 'DISPATCH__SECRETS__KEY=%s\n' "${DISPATCH__SECRETS__KEY:-$(random_hex 32)}"
      printf 'DEMO_%s=%s\n' ACCESS_TOKEN "$(random_hex 16)" APP_SECRET "$(random_hex 16)" VERIFY_TOKEN "$(random_hex 16)"
    ) >"$WORK/secrets"
    chmod 600 "$WORK/secrets"
  fi
  set -a
  # shellcheck source=/dev/null
  source "$WORK/secrets"
  set +a
}

ready() {
  local answer
  gone "$SERVE" && return 0
  # shellcheck disable=SC2016 # the inner shell expands it
  answer=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n" >&3 && head -n1 <&3' "$API_PORT" 2>/dev/null) || return 1
  [[ $answer == *' 200 '* ]]
}

start_product() {
  local made name
  heading 'the product: schema, tokens, process'
  API_PORT=$(free_port) SIM_PORT=$(free_port)
  export DISPATCH__HTTP__LISTEN=127.0.0.1:$API_PORT DISPATCH__CLIENT__URL=http://127.0.0.1:$API_PORT
  secrets
  shown migrate
  # The first token is made on the database itself, all others could be made by the API.
  made=$(dispatch tokens create --name demo --scope admin,operate,publish,read,pii --producer demo --json)
  text_in "$made" id >"$WORK/token"
  DISPATCH__CLIENT__TOKEN=$(text_in "$made" token)
  export DISPATCH__CLIENT__TOKEN
  (
    umask 077
    for name in DATABASE_URL AMQP_URL DISPATCH__SECRETS__KEY DISPATCH__HTTP__LISTEN DISPATCH__CLIENT__URL DISPATCH__CLIENT__TOKEN \
      DEMO_ACCESS_TOKEN DEMO_APP_SECRET DEMO_VERIFY_TOKEN; do
      printf 'export %s=%q\n' "$name" "${!name}"
    done >"$WORK/env"
  )
  background "$WORK/serve.log" "$BINARY" serve
  SERVE=$!
  if ! until_true 30 ready || gone "$SERVE"; then
    tail -n 5 "$WORK/serve.log" >&2
    die "serve does not answer; all it said is in $WORK/serve.log"
  fi
}

# What an earlier run that was cut off still had to send must not reach this run's simulator.
cancel_leftovers() {
  local job
  while read -r job; do
    printf '{"schema":"cancel-job/v1","producer":"demo","job_id":"%s"}\n' "$job" >"$WORK/cancel.json"
    dispatch send "$WORK/cancel.json" >/dev/null
    say "cancelled the rest of $job, an earlier run that was cut off"
  done < <(unfinished)
  until_true 30 nothing_unfinished || die 'what an earlier run left is still being sent; try again'
}

nothing_unfinished() { [[ -z $(unfinished) ]]; }

# The job ids of this demo's batches with pending messages.
unfinished() {
  dispatch batches list --producer demo --limit 20 --json | tr ',{}' '\n' | awk -F'"' '
    $2 == "job_id" { job = $4 }
    $2 == "pending" { pending = $3; gsub(/[^0-9]/, "", pending); if (pending > 0 && job ~ /^demo-/) print job }'
}

start_provider() {
  local text account hook
  heading 'the provider: a registry of one account, number and template, and a simulator that knows them'
  text=$(<"$CHECKOUT/deploy/demo/registry.toml")
  printf '%s\n' "${text//@BASE_URL@/http://127.0.0.1:$SIM_PORT}" >"$WORK/registry.toml"
  shown accounts apply "$WORK/registry.toml"
  account=$(dispatch accounts show demo --json)
  hook=$(text_in "$account" hook_path)
  [[ -n $hook ]] || die 'accounts show names no callback path'
  background "$WORK/simulate.log" "$BINARY" simulate --registry "$WORK/registry.toml" --listen "127.0.0.1:$SIM_PORT" \
    --webhook "$WABA=$DISPATCH__CLIENT__URL$hook" --callback-delay-ms 200 --read-share 0.6
  SIMULATOR=$!
  until_true 30 simulator_listens || die "the simulator does not answer: $(tail -n 3 "$WORK/simulate.log")"
  SIMULATOR_BEGAN=$EPOCHREALTIME
}

simulator_listens() { gone "$SIMULATOR" || answers 127.0.0.1 "$SIM_PORT"; }

# --- the journey -------------------------------------------------------------------------------

publish() {
  local run answer
  run=$(printf '%03d' "$((EPOCHSECONDS / 7 % 1000))")
  heading 'a CSV of 1 000 good rows and 8 bad ones becomes an import, checked with the template'
  "$CHECKOUT/deploy/demo/recipients.sh" "$run" >"$WORK/recipients.csv"
  head -n 5 "$WORK/recipients.csv"
  echo ...
  answer=$(dispatch imports create "$WORK/recipients.csv" --business-number "$NUMBER" --template "$TEMPLATE" --language ja --json)
  IMPORT=$(text_in "$answer" id)
  shown imports show "$IMPORT"
  agree 'good rows of the CSV' "$(number_in "$answer" good)" 1000
  agree 'bad rows of the CSV' "$(dispatch imports rejected "$IMPORT" --json | grep -oE '"row": *[0-9]+' | grep -oE '[0-9]+' | xargs)" "$BAD_ROWS"

  heading 'a job that names it is published over RabbitMQ'
  cat >"$WORK/job.json" <<JSON
{
  "schema": "send-job/v1",
  "job_id": "demo-$(date +%Y%m%d-%H%M%S)",
  "producer": "demo",
  "business_number": "$NUMBER",
  "template": { "name": "$TEMPLATE", "language": "ja" },
  "params": { "button1.url": "spring" },
  "campaign": "demo",
  "audience": { "import": "$IMPORT" }
}
JSON
  cat "$WORK/job.json"
  printf '$ campaign-dispatch send %s --amqp\n' "$WORK/job.json"
  answer=$(dispatch send "$WORK/job.json" --amqp --json)
  BATCH=$(text_in "$answer" batch_id)
  printf 'batch %s  accepted %s  rejected %s\n' "$BATCH" "$(number_in "$answer" accepted)" "$(number_in "$answer" rejected)"

  heading 'it is sent, at most 200 a second'
  shown batches watch "$BATCH"
}

# Everything told and applied: callbacks that were answered may still be in the broker.
settled() {
  local batch
  CALLBACKS=$(simulator callbacks)
  batch=$(dispatch batches show "$BATCH" --json)
  (($(number_in "$CALLBACKS" owed) == 0 && $(number_in "$batch" pending) == 0 && $(number_in "$batch" uncertain) == 0 &&
    $(number_in "$batch" accepted) + $(number_in "$batch" sent) == 0))
}

show_results() {
  heading 'the checklist'
  shown batches show "$BATCH"
  heading 'rows of the CSV that were refused'
  shown imports rejected "$IMPORT"
  heading 'some messages'
  shown messages list sent --batch "$BATCH" --limit 5
  shown messages list failed --batch "$BATCH" --limit 5
  heading 'what failed, and what to do (in Japanese with --lang ja)'
  shown failures --batch "$BATCH"
}

# --- does it agree with what the provider saw? --------------------------------------------------

# agree WHAT OURS THEIRS
agree() {
  if [[ $2 == "$3" ]]; then
    printf 'ok        %s: %s\n' "$1" "$2"
  else
    printf 'DISAGREE  %s: %s, expected %s\n' "$1" "$2" "$3"
    DISAGREEMENTS=$((DISAGREEMENTS + 1))
  fi
}

# How many messages of the batch failed with a code, by `failures --json` read line by line.
failures_with() {
  tr ',{}' '\n' <<<"$FAILURES" | awk -F'"' -v code="$1" '
    $2 == "code" { current = $4 }
    $2 == "messages" { count = $3; gsub(/[^0-9]/, "", count); if (current == code) sum += count; else other[current] += count }
    END { print sum + 0 }'
}

compare() {
  local batch ledger ours states told=0 refused code pair theirs worst
  heading 'compared with what the provider saw'
  batch=$(dispatch batches show "$BATCH" --json)
  FAILURES=$(dispatch failures --batch "$BATCH" --json)
  ledger=$(simulator ledger)
  # One line for each accepted call; only those of this batch.
  ours=$(simulator ledger/messages | grep -F "\"batch\":\"$BATCH\"" || true)

  RECIPIENTS=$(number_in "$batch" recipients) PENDING=$(number_in "$batch" pending) UNCERTAIN=$(number_in "$batch" uncertain)
  SENT=$(($(number_in "$batch" accepted) + $(number_in "$batch" sent) + $(number_in "$batch" delivered) + $(number_in "$batch" read)))
  FAILED=$(($(number_in "$batch" failed) + $(number_in "$batch" expired) + $(number_in "$batch" suppressed) + $(number_in "$batch" cancelled)))
  states=$((PENDING + UNCERTAIN + SENT + FAILED))
  LOST=$((RECIPIENTS - states))
  DOUBLED=$(grep -o '"seq":[0-9]*' <<<"$ours" | sort | uniq -d | grep -c . || true)

  for pair in "${BY_CALLBACK[@]}"; do
    code=${pair%:*}
    theirs=$(grep -c "\"recipient\":\"+8190\**${pair#*:}\"" <<<"$ours" || true)
    agree "failed by callback with $code" "$(failures_with "$code")" "$theirs"
    told=$((told + theirs))
  done
  refused=$(number_in "$ledger" "$AT_THE_CALL")
  agree "refused at the call with $AT_THE_CALL" "$(failures_with "$AT_THE_CALL")" "$refused"
  agree 'failed in all' "$FAILED" "$((told + refused))"
  agree 'messages the provider took = sent + failed by callback' "$((SENT + told))" \
    "$(grep -o '"seq":[0-9]*' <<<"$ours" | sort -u | grep -c . || true)"
  agree 'recipients' "$RECIPIENTS" 1000
  agree 'pending' "$PENDING" 0
  agree 'uncertain' "$UNCERTAIN" 0
  agree 'lost' "$LOST" 0
  agree 'doubled' "$DOUBLED" 0
  agree 'callbacks still owed' "$(number_in "$CALLBACKS" owed)" 0
  worst=$(number_in "$ledger" worst_second)
  agree 'the most calls in a second, where at most 200 are allowed' "$worst" "$((worst <= 200 ? worst : 200))"
  FIRST_MS=$(number_in "$ledger" first_ms)
}

look_further() {
  heading 'look further'
  if ! $KEEP; then
    echo 'Everything is stopped now. With deploy/demo.sh --keep it goes on running, and these work:'
  fi
  cat <<TEXT
  source $WORK/env
  PATH=${BINARY%/*}:\$PATH
  campaign-dispatch batches list
  campaign-dispatch batches show $BATCH
  campaign-dispatch messages list failed --batch $BATCH
  campaign-dispatch messages show $BATCH.60
  campaign-dispatch failures --batch $BATCH --lang ja
  campaign-dispatch holds list --all
TEXT
  if $KEEP; then echo '  deploy/demo.sh stop     ends it'; fi
  echo "Logs: $WORK/serve.log, $WORK/simulate.log"
}

main() {
  mkdir -p "$RUNNING"
  stop_processes
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  heading 'services and build'
  services_up
  build
  start_product
  cancel_leftovers
  start_provider
  publish
  until_true 60 settled || say 'not everything was told within a minute'
  show_results
  compare
  # The simulator counts from its own start, which we saw to within a tenth of a second.
  say "first message after $(seconds_since "$BEGAN" "$(awk -v at="$SIMULATOR_BEGAN" -v ms="$FIRST_MS" 'BEGIN { printf "%.3f", at + ms / 1000 }')") s"
  look_further
  if ! $KEEP; then
    revoke_token
    stop_processes
    stop_services
    STARTED=()
  fi
  printf 'demo: recipients=%s sent=%s failed=%s uncertain=%s pending=%s lost=%s doubled=%s\n' \
    "$RECIPIENTS" "$SENT" "$FAILED" "$UNCERTAIN" "$PENDING" "$LOST" "$DOUBLED"
  ((DISAGREEMENTS == 0)) || exit 1
}

case ${1:-} in
  '') main ;;
  --keep) KEEP=true; main ;;
  stop)
    if [[ -s $WORK/env ]]; then
      # shellcheck source=/dev/null
      source "$WORK/env"
      BINARY=${CARGO_TARGET_DIR:-$CHECKOUT/target}/release/campaign-dispatch
      revoke_token
    fi
    unset DATABASE_URL AMQP_URL
    stop_processes
    if [[ -s $WORK/started ]]; then
      mapfile -t STARTED <"$WORK/started"
      stop_services
      rm "$WORK/started"
    fi
    ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

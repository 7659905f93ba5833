# shellcheck shell=bash disable=SC2034,SC2119,SC2120,SC2154 # the parts share their variables
# The drain: alone, with a slow provider, and beside the peers.

# drain_once N LEAD [HELD]: "count seconds worker postgres broker". The time is from the stub's first request to the moment
# nothing but HELD messages is pending; CPU is of the same time, so that neither starting nor waiting counts.
drain_once() {
  local before after first ended
  # Watched before there is work: beside a million rows a fill may take longer than its lead.
  exec 5< <("$LOAD" watch --host "127.0.0.1:$STUB_PORT" --n "$1")
  read -r _ <&5
  fill "$1" 0 "$2"
  read -r _ first <&5 || die "no message was sent: $(tail -3 "$WORK/serve.log")"
  before=$(cpu_now)
  read -r _ _ <&5 || die "not drained in time: $(tail -3 "$WORK/serve.log")"
  ended=$(wait_until 60 0.02 "${3:-0}" 'SELECT coalesce(sum(pending), 0) FROM batch_tally')
  after=$(cpu_now)
  exec 5<&-
  printf '%d %s %s\n' "$1" "$(calc "$ended - $first / 1000" %.3f)" "$(per_10k "$before" "$after" "$1")"
}

drain_round() {
  local count seconds cpu accepted
  read -r count seconds cpu < <(drain_once "$1" 2)
  accepted=$(sql -c "SELECT count(*) FROM message WHERE state = 'accepted'")
  [[ $accepted == "$count" ]] || die "accepted $accepted of $count"
  # shellcheck disable=SC2086 # three numbers
  round_is "$(calc "$count / $seconds")" $cpu
  empty
}

drain_setup() {
  start_stub
  write_registry 0 0 0 0 0 0 0 0
  start_serve
  apply_registry
}

bench_drain() {
  local n=${N:-50000} rounds=${ROUNDS:-3} rate cpu gate=() i
  if $QUICK; then n=${N:-16000}; fi
  if [[ -n $PEERS ]]; then
    drain_beside_peers
    return
  fi
  n=$((n / 8 * 8))
  drain_setup
  for ((i = 0; i < rounds; i++)); do drain_round "$n"; done
  read -r rate cpu < <(median_round)
  if ((DELAY)); then gate=('>=' 10000); fi
  figure messages_per_s "$rate" messages/s "${gate[@]}"
  # shellcheck disable=SC2086 # three numbers
  cpu_figures $cpu
}

# `command -v` of several names is content with one of them.
have_peers_services() {
  local name
  have_nginx || return 1
  for name in redis-server psql rabbitmq-server node; do command -v "$name" >/dev/null || return 1; done
}

# A round of the peer's own harness: "rate worker".
peer_round() {
  local line
  line=$(cd "$PEERS" && PEERS_RESULTS=$WORK/peers.json ./bench.py peer node-batch-long --fast --rounds 1 2>>"$WORK/peers.log" |
    grep -F '"ok": true' | tail -1) || true
  (cd "$PEERS" && ./bench.py down >/dev/null 2>&1) || true
  [[ -n $line ]] || die "the peer's round failed: $(tail -3 "$WORK/peers.log")"
  printf '%s %s\n' "$(number_in "$line" rate)" "$(number_in "$line" cpu_worker)"
}

# Three rounds each in turns, the other side's services down meanwhile: a noisy minute hits both.
drain_beside_peers() {
  local rounds=${ROUNDS:-3} theirs=() rate cpu peer i line
  have_peers_services || install_packages have_peers_services redis-server nginx-light libnginx-mod-http-echo postgresql rabbitmq-server nodejs
  for ((i = 0; i < rounds; i++)); do
    services up >&2
    POSTMASTER=$(services pid postgres 2>/dev/null || true)
    BROKER_PID=$(services pid rabbitmq 2>/dev/null || true)
    if ((i == 0)); then drain_setup; else start_serve; fi
    drain_round 60000
    stop_serve
    services down >&2
    line=$(peer_round)
    say "peer $((i + 1)): $line"
    theirs+=("$line")
  done
  services up >&2
  read -r rate cpu < <(median_round)
  peer=$(printf '%s\n' "${theirs[@]}" | sort -g | sed -n "$(((rounds + 1) / 2))p")
  figure ratio "$(calc "$rate / ${peer% *}" %.2f)" 'times node-batch-long' '>=' 1.25
  figure messages_per_s "$rate" 'messages/s'
  figure peer_messages_per_s "${peer% *}" 'messages/s of the peer'
  # shellcheck disable=SC2086 # three numbers
  cpu_figures $cpu '<=' 0.45
  figure peer_worker_cpu_s_per_10k "${peer#* }" "CPU-s per 10 000 of the peer's worker"
}

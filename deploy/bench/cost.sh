# shellcheck shell=bash disable=SC2034,SC2119,SC2120,SC2154 # the parts share their variables
# What a message costs: CPU of worker, Postgres and broker together, over counts of messages and numbers; and what
# numbers cost that have nothing to send.

# A point: its name, its database (by count of numbers), messages in one go, goes.
POINTS=('10k:100:10000:20' '100k:100:100000:2' '1M:100:1000000:1' '1-number:1:100000:2' '5000-numbers:5000:100000:2' 'beside-1M-held:held:100000:2')

bench_cost() {
  local rounds=${ROUNDS:-5} i point name values worst base share
  if $QUICK; then POINTS=('10k:100:10000:4' '100k:100:100000:1' '1-number:1:100000:1' '5000-numbers:5000:100000:1' 'beside-1M-held:held:100000:1') rounds=${ROUNDS:-1}; fi
  start_stub
  cost_databases
  for ((i = 1; i <= rounds; i++)); do
    for point in "${POINTS[@]}"; do cost_point "$point"; done
  done
  for point in "${POINTS[@]}"; do
    name=${point%%:*}
    values=$(sort -g "$WORK/cost.$name" | awk '{ v[NR] = $1 } END { printf "%.3f %.3f %.3f", v[int((NR + 1) / 2)], v[1], v[NR] }')
    read -r value low high <<<"$values"
    if [[ -z ${base:-} ]]; then base=$value; fi
    figure "cost_$name" "$value" "CPU-s per 10 000 at $name ($low to $high)"
    printf '%s %s %s\n' "$value" "$low" "$high" >>"$WORK/cost"
  done
  # Within 15 % of each other, or within the spread of one point's own rounds.
  read -r share worst < <(awk 'BEGIN { worst = 15 }
    { if (NR == 1 || $1 < lo) lo = $1; if ($1 > hi) hi = $1; spread = ($3 - $2) / $1 * 100; if (spread > worst) worst = spread }
    END { printf "%.1f %.1f\n", (hi - lo) / lo * 100, worst }' "$WORK/cost")
  figure difference "$share" '% between the dearest and the cheapest' '<=' "$worst"
  NOTES="; medians of $rounds rounds over all points in turn"
}

cost_databases() {
  local kind many
  for kind in 100 1 5000 held; do
    many=$kind
    if [[ $kind == held ]]; then many=100; fi
    new_database "bench_$$_$kind"
    # shellcheck disable=SC2046 # a limit a number
    write_registry $(yes 0 | head -n "$many")
    start_serve
    apply_registry
    stop_serve
    if [[ $kind == held ]]; then hold_a_million; fi
  done
}

# A million messages of one more number under a hold, as a paused number leaves them.
hold_a_million() {
  fill 1000000 0 86400
  sql -c "INSERT INTO hold (tenant_id, scope, cause, resume) SELECT 1, 'everything', 'bench', 'person'" \
    -c "UPDATE work SET stage = 'parked', hold_id = (SELECT max(id) FROM hold), wake_at = 'infinity'" \
    -c "UPDATE hold SET scope = 'batch:' || (SELECT min(batch_id::text) FROM batch)" -c 'VACUUM ANALYZE work' >/dev/null
}

cost_point() {
  local name kind n goes i count seconds worker postgres broker total=0 all=0
  IFS=: read -r name kind n goes <<<"$1"
  use_database "bench_$$_$kind"
  start_serve
  # All numbers are leased before anything is due.
  until_true 60 leased || die 'the numbers were not leased'
  for ((i = 0; i < goes; i++)); do
    read -r count seconds worker postgres broker < <(cost_go "$n" "$kind")
    total=$(calc "$total + ($worker + $postgres + $broker) * $count" %.3f)
    all=$((all + count))
  done
  stop_serve
  if [[ $kind != held ]]; then empty; fi
  calc "$total / $all" '%.3f\n' >>"$WORK/cost.$name"
  say "$name: $(tail -n1 "$WORK/cost.$name") CPU-s per 10 000 (last: $seconds s, worker $worker, postgres $postgres, broker $broker)"
}

leased() { [[ $(sql -c 'SELECT count(*) FROM business_number n WHERE NOT EXISTS (SELECT FROM number_lease l JOIN worker w USING (worker_id) WHERE l.number_id = n.id AND w.expires_at > now())') == 0 ]]; }

# As drain_once, all due only when they are written; what is held stays pending.
cost_go() {
  local held=0
  if [[ $2 == held ]]; then held=1000000; fi
  drain_once "$1" "$(calc "3 + $1 / 50000" %.0f)" "$held"
}

# Registered, leased, and nothing to do: CPU of worker and Postgres as a share of one core. The broker's own idling (its
# timers run whether anybody is connected or not) is shown beside it.
bench_idle() {
  local n=${N:-5000} seconds=60 before after began took worker postgres broker
  if $QUICK; then seconds=20; fi
  PROVIDER_URL=http://127.0.0.1:9
  # shellcheck disable=SC2046 # a limit a number
  write_registry $(yes 80 | head -n "$n")
  start_serve
  apply_registry
  until_true 60 leased || die 'the numbers were not leased'
  # What the registration left to do (vacuum, a checkpoint) is not what is measured.
  sql -c 'VACUUM ANALYZE' -c CHECKPOINT >/dev/null
  sleep 15
  before=$(cpu_now) began=$EPOCHREALTIME
  sleep "$seconds"
  after=$(cpu_now)
  took=$(calc "$EPOCHREALTIME - $began" %.3f)
  [[ $(sql -c 'SELECT count(*) FROM number_lease WHERE lease_id IS NOT NULL') == "$n" ]] || die 'numbers were lost meanwhile'
  read -r worker postgres broker < <(awk -v b="$before" -v a="$after" -v s="$took" \
    'BEGIN { split(b, x); split(a, y); for (i = 1; i <= 3; i++) printf "%.2f ", (y[i] - x[i]) / s * 100; print "" }')
  figure percent_of_core "$(calc "$worker + $postgres" %.2f)" "% of a core for $n numbers with no work" '<' 2
  figure worker_percent "$worker" '% worker'
  figure postgres_percent "$postgres" '% postgres'
  figure broker_percent "$broker" '% broker'
  NOTES="; over $(calc "$took") s"
}

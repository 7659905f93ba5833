# shellcheck shell=bash disable=SC2034,SC2119,SC2120,SC2154 # the parts share their variables
# Time and size: how soon a job is called for, how exactly a pace is kept, how much memory that takes.

# Where the calls of jobs arrived, in the wall clock's time: table `call (batch_id, at)`, from the simulator's ledger.
read_calls() {
  local offset
  offset=$("$LOAD" clock --host "127.0.0.1:$SIM_PORT")
  simulator ledger/messages | awk -F'[:,"]+' -v offset="$offset" '
    { for (i = 1; i < NF; i++) { if ($i == "batch") batch = $(i + 1); if ($i == "at_ms") at = $(i + 1) } printf "%s\t%.3f\n", batch, at + offset }' >"$WORK/calls"
  sql -c 'DROP TABLE IF EXISTS call' -c 'CREATE TABLE call (batch_id uuid, at float8)' -c "\\copy call FROM '$WORK/calls'" \
    -c 'CREATE INDEX ON call (batch_id)' -c 'ANALYZE call' >/dev/null
}

# read_published FILE: table `published (job_id, at)`.
read_published() {
  tr ' ' '\t' <"$1" >"$1.tsv"
  sql -c 'DROP TABLE IF EXISTS published' -c 'CREATE TABLE published (job_id text, at float8)' -c "\\copy published FROM '$1.tsv'" >/dev/null
}

# latencies FROM TO: "samples p50 p99 max missing" in milliseconds, of jobs published in between (milliseconds since 1970).
latencies() {
  sql -c "SELECT count(c.at), round(percentile_disc(0.5) WITHIN GROUP (ORDER BY c.at - p.at)::numeric, 2),
                 round(percentile_disc(0.99) WITHIN GROUP (ORDER BY c.at - p.at)::numeric, 2), round(max(c.at - p.at)::numeric, 2),
                 count(*) - count(c.at)
          FROM published p LEFT JOIN job j ON j.job_id = p.job_id LEFT JOIN call c ON c.batch_id = j.batch_id
          WHERE p.at BETWEEN $1 AND $2"
}

# longest TO: p50, p99 and the ten longest latencies until then, when in the run, and where the time went: from the
# publish until intake had the job (the id of its batch holds that instant), until its transaction began, until the
# provider's call.
longest() {
  sql -c "WITH job_ms AS (
            SELECT c.at - p.at AS ms, (p.at - min(p.at) OVER ()) / 1000 AS second, t.taken - p.at AS intake,
                   extract(epoch FROM j.created_at)::float8 * 1000 - t.taken AS begin,
                   c.at - extract(epoch FROM j.created_at)::float8 * 1000 AS call
            FROM published p JOIN job j ON j.job_id = p.job_id JOIN call c ON c.batch_id = j.batch_id,
                 LATERAL (SELECT ('x' || substr(replace(c.batch_id::text, '-', ''), 1, 12))::bit(48)::bigint AS taken) t
            WHERE p.at <= $1
          ), part AS (
            SELECT q, percentile_disc(q) WITHIN GROUP (ORDER BY intake) AS intake, percentile_disc(q) WITHIN GROUP (ORDER BY begin) AS begin,
                   percentile_disc(q) WITHIN GROUP (ORDER BY call) AS call
            FROM job_ms, unnest(ARRAY[0.5, 0.9, 0.99]) q GROUP BY q
          )
          SELECT string_agg(format('p%s of each %s, %s, %s', (q * 100)::int, round(intake::numeric, 1), round(begin::numeric, 1), round(call::numeric, 1)), '; ' ORDER BY q)
                 || '; the longest: ' || (SELECT string_agg(format('%s at %s s = %s + %s + %s', round(ms::numeric, 1), round(second::numeric, 1),
                      round(intake::numeric, 1), round(begin::numeric, 1), round(call::numeric, 1)), ', ' ORDER BY ms DESC)
                    FROM (SELECT * FROM job_ms ORDER BY ms DESC LIMIT 10) longest)
          FROM part"
}

# one_by_one NAME COUNT EVERY_MS KEY TEMPLATE: the publish times are in $WORK/NAME.
one_by_one() {
  "$LOAD" jobs --name "$1-$$" --n "$2" --every-ms "$3" --key "$4" --templates "$5" --numbers +81312340001 --times "$WORK/$1" >/dev/null
}

bench_latency() {
  if $AUTH; then
    latency_of_authentication
    return
  fi
  local n=${N:-600} samples p50 p99 most missing
  if $QUICK; then n=${N:-200}; fi
  start_simulator 1000
  one_by_one warm 40 50 jobs notice
  one_by_one idle "$n" 50 jobs notice
  read_calls
  read_published "$WORK/idle"
  read -r samples p50 p99 most missing < <(latencies 0 1e15)
  ((missing == 0)) || die "$missing of $n jobs were not called for"
  NOTES="; $samples jobs, one each 50 ms, p50 $p50 ms, longest $most ms"
  figure p99_ms "$p99" 'ms from publish to call (p99)' '<=' 20
}

# Promise 7: idle first, then 200 000 marketing and 200 000 utility jobs of one recipient on the same number, as fast as
# they are taken, with an authentication job each 100 ms for six minutes from the first publish.
latency_of_authentication() {
  local each=200000 seconds=360 idle_s=60 bulk busy_to allowed
  local idle_n idle_p50 idle_p99 idle_max samples p50 p99 most missing after
  if $QUICK; then each=${N:-20000} seconds=40 idle_s=20; else each=${N:-$each}; fi
  start_simulator 80
  one_by_one warm 20 100 jobs.urgent code
  one_by_one idle $((idle_s * 10)) 100 jobs.urgent code
  "$LOAD" jobs --name "bulk-$$" --n $((each * 2)) --templates offer,notice --numbers +81312340001 --depth 2000 >"$WORK/bulk" &
  bulk=$!
  one_by_one busy $((seconds * 10)) 100 jobs.urgent code
  wait "$bulk" || die 'the bulk jobs could not be published'
  sleep 2
  read_calls
  read_published "$WORK/idle"
  read -r idle_n idle_p50 idle_p99 idle_max _ < <(latencies 0 1e15)
  say "idle, ms = until intake had it + until its transaction + until the call: $(longest 1e15)"
  read_published "$WORK/busy"
  busy_to=$(sql -c "SELECT extract(epoch FROM max(created_at)) * 1000 FROM batch WHERE job_id LIKE 'bulk-%'")
  allowed=$(calc "$idle_p99 + ($idle_p99 > 50 ? $idle_p99 / 10 : 5)" %.2f)
  read -r samples p50 p99 most missing < <(latencies 0 "$busy_to")
  read -r _ _ after _ < <(latencies "$busy_to" 1e15)
  say "while busy, ms = until intake had it + until its transaction + until the call: $(longest "$busy_to")"
  read -r _ _ _ _ missing < <(latencies 0 1e15)
  ((missing == 0)) || die "$missing authentication jobs were not called for"
  NOTES="; idle: $idle_n jobs, p50 $idle_p50, p99 $idle_p99, longest $idle_max ms; while $((each * 2)) jobs were taken: $samples jobs, p50 $p50, longest $most ms"
  figure busy_p99_ms "$p99" 'ms p99 while intake is busy' '<=' "$allowed"
  if [[ -n $after ]]; then
    figure after_p99_ms "$after" 'ms p99 afterwards' '<=' "$allowed"
  else
    NOTES+='; intake was busy to the end'
  fi
  figure idle_p99_ms "$idle_p99" 'ms p99 idle'
}

bench_pacing() {
  local seconds=${N:-60} ledger id limit number mean
  if $QUICK; then seconds=${N:-15}; fi
  start_simulator 80 1000
  fill 0 "$seconds" 3
  wait_until $((seconds + 60)) 1 0 'SELECT coalesce(sum(pending), 0) FROM batch_tally' >/dev/null
  ledger=$(simulator ledger)
  is "$(number_in "$ledger" unjudged_share) <= 0.01" || die "the simulator stood still too often to judge: $(number_in "$ledger" unjudged_share)"
  for id in 10001:80 10002:1000; do
    limit=${id#*:}
    number=${ledger#*"\"${id%:*}\":"}
    mean=$(number_in "$number" mean_per_second)
    figure "worst_second_$limit" "$(number_in "$number" worst_second)" "in the worst second of $limit/s" '<=' "$limit"
    figure "mean_share_$limit" "$(calc "$mean * 100 / $limit" %.2f)" "% of $limit/s used" '>=' 95
  done
  NOTES="; $seconds s, throttled $(number_in "$ledger" throttled)"
}

# Drains for a while with so many messages pending: the peak of a fresh process.
memory_with() {
  local seconds=20 peak end
  if $QUICK; then seconds=8; fi
  start_serve
  fill "$1" 0 2
  end=$((SECONDS + seconds + 2))
  while ((SECONDS < end)); do
    sleep 0.2
    # Few are filled up: what is compared is how many wait, not how long they are sent.
    if sql -c 'SELECT sum(pending) FROM batch_tally' | awk -v n="$1" '{ exit !($1 * 2 < n) }'; then fill "$1" 0 0; fi
  done
  peak=$(awk '/^VmHWM/ { printf "%.1f", $2 / 1024 }' "/proc/$SERVE/status")
  # What is left of it is not waited for.
  sql -c "UPDATE batch SET cancelled_at = now()" -c "DELETE FROM work WHERE stage = 'ready'" >/dev/null
  stop_serve
  empty
  printf '%s\n' "$peak"
}

bench_memory() {
  local few many growth rounds=${ROUNDS:-3} n=${N:-1000000} i
  if $QUICK; then n=${N:-200000} rounds=${ROUNDS:-1}; fi
  start_stub
  write_registry 0 0 0 0 0 0 0 0
  start_serve
  apply_registry
  stop_serve
  for ((i = 0; i < rounds; i++)); do
    few=$(memory_with 10000)
    many=$(memory_with $((n / 8 * 8)))
    round_is "$(calc "($many - $few) * 100 / $few" %.1f)" "$many" "$few"
  done
  read -r growth many few < <(median_round)
  figure rss_mb "$many" "MB of memory with $n pending" '<=' 100
  figure growth "$growth" '% more than with 10 000' '<=' 20
  NOTES="; with 10 000: $few MB; peak while sending at full speed"
}

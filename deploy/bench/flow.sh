# shellcheck shell=bash disable=SC2034,SC2119,SC2120,SC2154 # the parts share their variables
# What comes in: callbacks, jobs, imports; and the whole way of a message.

bench_callbacks() {
  local n=${N:-100000} rounds=${ROUNDS:-3} i rate cpu
  if $QUICK; then n=${N:-40000}; fi
  n=$((n / 8 * 8))
  PROVIDER_URL=http://127.0.0.1:9
  write_registry 0 0 0 0 0 0 0 0
  start_serve
  apply_registry
  for ((i = 0; i < rounds; i++)); do callbacks_round "$n"; done
  read -r rate cpu < <(median_round)
  figure callbacks_per_s "$rate" callbacks/s '>=' 20000
  # shellcheck disable=SC2086 # three numbers
  cpu_figures $cpu
}

# From the first request to the last row applied.
callbacks_round() {
  local before after began ended said hook
  hook=$(text_in "$(dispatch accounts show bench --json)" hook_path)
  empty
  fill "$1" 0 86400
  sql -c "UPDATE message SET state = 'accepted', attempt = 1, accepted_at = now()" -c 'TRUNCATE work' \
    -c 'UPDATE batch_tally SET accepted = pending, pending = 0' -c 'VACUUM ANALYZE message, batch_tally' -c CHECKPOINT >/dev/null
  # As they were sent: the numbers in turn.
  sql -c 'SELECT m.batch_id, m.seq, n.provider_number_id FROM message m JOIN batch b USING (batch_id) JOIN business_number n ON n.id = b.number_id ORDER BY 2, 1' >"$WORK/keys"
  before=$(cpu_now)
  said=$("$LOAD" callbacks --host "${DISPATCH__HTTP__LISTEN}" --path "$hook" --secret "$BENCH_SECRET" \
    --installation "$(sql -c 'SELECT name FROM installation')" <"$WORK/keys")
  read -r began _ <<<"$said"
  ended=$(wait_until 60 0.02 "$1" 'SELECT sum(sent) FROM batch_tally')
  after=$(cpu_now)
  # shellcheck disable=SC2046 # three numbers
  round_is "$(calc "$1 / ($ended - $began / 1000)")" $(per_10k "$before" "$after" "$1")
}

bench_endtoend() {
  local n=${N:-40000} rounds=${ROUNDS:-3} i rate cpu before after due ended
  if $QUICK; then n=${N:-16000}; fi
  n=$((n / 8 * 8))
  start_simulator 0 0 0 0 0 0 0 0
  for ((i = 0; i < rounds; i++)); do
    empty
    fill "$n" 0 2
    due=$(sql -c 'SELECT extract(epoch FROM min(wake_at)) FROM work')
    before=$(cpu_now)
    ended=$(wait_until 120 0.1 "$n" 'SELECT sum(read) FROM batch_tally')
    after=$(cpu_now)
    # shellcheck disable=SC2046 # three numbers
    round_is "$(calc "$n / ($ended - $due)")" $(per_10k "$before" "$after" "$n")
  done
  read -r rate cpu < <(median_round)
  figure messages_per_s "$rate" messages/s '>=' 3000
  # shellcheck disable=SC2086 # three numbers
  cpu_figures $cpu
}

# The jobs wait in the queue before the clock starts: publishing is not what is measured. Nothing is sent meanwhile.
bench_intake() {
  local n=${N:-60000} rounds=${ROUNDS:-3} i rate cpu before after
  local numbers=+81312340001,+81312340002,+81312340003,+81312340004,+81312340005,+81312340006,+81312340007,+81312340008
  if $QUICK; then n=${N:-20000}; fi
  PROVIDER_URL=http://127.0.0.1:9
  write_registry 0 0 0 0 0 0 0 0
  start_serve --roles http
  apply_registry
  stop_serve
  for ((i = 0; i < rounds; i++)); do
    empty
    "$LOAD" jobs --n "$n" --name "round-$i-$$" --numbers "$numbers" --templates offer,notice >/dev/null
    start_serve --roles http,intake,callbacks,upkeep
    before="0 $(cpu_now | cut -d' ' -f2-)"
    wait_until 120 0.2 "$n" 'SELECT count(*) FROM batch' >/dev/null
    # What each job's event costs is part of it.
    wait_until 60 0.1 0 'SELECT count(*) FROM outbox' >/dev/null
    after=$(cpu_now)
    rate=$(sql -c 'SELECT round(count(*) / extract(epoch FROM max(created_at) - min(created_at))) FROM batch')
    # shellcheck disable=SC2046 # three numbers
    round_is "$rate" $(per_10k "$before" "$after" "$n")
    stop_serve
  done
  read -r rate cpu < <(median_round)
  figure jobs_per_s "$rate" jobs/s '>=' 8000
  # shellcheck disable=SC2086 # three numbers
  cpu_figures $cpu
}

# From the start of the upload to the commit of the last message: a file, an import, a job that names it, a plan.
bench_import() {
  local n=${N:-200000} rounds=${ROUNDS:-3} i rate cpu before after began read ended import batch
  if $QUICK; then n=${N:-60000}; fi
  PROVIDER_URL=http://127.0.0.1:9
  write_registry 80
  start_serve --roles http,intake,callbacks,upkeep
  apply_registry
  awk -v n="$n" 'BEGIN { print "to,ref,name,shop"; for (i = 0; i < n; i++) printf "+8190%d,crm-%d,佐藤%d,渋谷店\n", 10000000 + i * 7, i, i }' >"$WORK/recipients.csv"
  for ((i = 0; i < rounds; i++)); do
    empty
    sql -c CHECKPOINT
    before=$(cpu_now) began=$EPOCHREALTIME
    import=$(text_in "$(dispatch imports create "$WORK/recipients.csv" --business-number +81312340001 --template offer --language ja --json)" id)
    read=$EPOCHREALTIME
    printf '{"schema":"send-job/v1","job_id":"import-%s","producer":"bench","business_number":"+81312340001","template":{"name":"offer","language":"ja"},"audience":{"import":"%s"}}' \
      "$i" "$import" >"$WORK/job.json"
    batch=$(text_in "$(dispatch send "$WORK/job.json" --amqp --json)" batch_id)
    ended=$(wait_until 120 0.05 "$n" "SELECT recipients FROM batch WHERE batch_id = '$batch' AND state = 'planned'")
    after=$(cpu_now)
    # shellcheck disable=SC2046 # three numbers
    round_is "$(calc "$n / ($ended - $began)")" $(per_10k "$before" "$after" "$n") "$(calc "$n / ($read - $began)") rows/s read"
    sql -c "DELETE FROM import_row" -c 'VACUUM import_row' >/dev/null
  done
  # shellcheck disable=SC2034 # the last is for people
  read -r rate worker postgres broker _ < <(median_round)
  figure rows_per_s "$rate" rows/s '>=' 50000
  cpu_figures "$worker" "$postgres" "$broker"
}

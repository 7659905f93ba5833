# shellcheck shell=bash disable=SC2034,SC2154 # the parts share their variables
# Checklists on a life of sending: every filter, first and deep pages; exports.

bench_checklist() {
  local n=${N:-10000000} worst=0
  if $QUICK; then n=${N:-200000}; fi
  PROVIDER_URL=http://127.0.0.1:9
  write_registry 80 80 80 80 80 80 80 80
  start_serve --roles http
  apply_registry
  say "making $n messages over 14 months"
  sql -v n="$n" -f "$CHECKOUT/deploy/bench/checklist.sql" >/dev/null
  say "$(sql -c "SELECT count(*) FROM batch") batches, $(sql -c 'SELECT count(*) FROM sent_group') groups of sent messages, $(sql -c 'SELECT pg_size_pretty(pg_database_size(current_database()))')"
  checklist_lists
  checklist_export csv
  checklist_export xlsx
}

# Each path of each filter: its first page, and the pages behind it.
checklist_lists() {
  sql -F'|' -q -f "$CHECKOUT/deploy/bench/checklist.paths.sql" | grep '|' >"$WORK/paths"
  "$LOAD" lists --host "$DISPATCH__HTTP__LISTEN" --token "$DISPATCH__CLIENT__TOKEN" <"$WORK/paths" >"$WORK/lists"
  cat "$WORK/lists" >&2
  figure filters "$(wc -l <"$WORK/lists")" 'filters'
  figure first_p95_ms "$(awk '{ if ($5 > w) w = $5 } END { print w + 0 }' FS='|' "$WORK/lists")" 'ms p95 of the slowest filter, first page' '<=' 100
  figure deep_p95_ms "$(awk '{ if ($9 > w) w = $9 } END { print w + 0 }' FS='|' "$WORK/lists")" 'ms p95 of the slowest filter, later pages' '<=' 100
}

# checklist_export FORMAT: of what was accepted in the latest six weeks, about a tenth of all; the memory of the server beside it.
checklist_export() {
  local began=$EPOCHREALTIME before rows file=$WORK/sent.$1
  echo 5 >"/proc/$SERVE/clear_refs"
  before=$(memory_mb VmRSS)
  dispatch messages export sent --to "$file" --since "$(date -u -d '-44 days' +%FT%TZ)" >&2
  rows=$(sql -c "SELECT sum(cardinality(seqs)) FROM sent_group WHERE first_at >= now() - interval '44 days'")
  figure "$1_rows_per_s" "$(calc "$rows / ($EPOCHREALTIME - $began)")" "rows/s to $1"
  figure "$1_peak_mb" "$(memory_mb VmHWM)" "MB at most (before $before)" '<=' 200
  NOTES+=" $rows rows to $1: $(stat -c %s "$file") bytes;"
  rm -f "$file"
}

memory_mb() { awk -v key="$1:" '$1 == key { printf "%.0f", $2 / 1024 }' "/proc/$SERVE/status"; }

# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # what is set here is used by the other parts
# What a bench measured, how it compares, and how it is told.

ROUND_LINES=() FIGURE_TEXTS=() FIGURE_JSON=() NOTES='' MISSED=false MACHINE=''

# CPU seconds of the process trees of worker, Postgres and broker, one number each. A server that is not ours (its
# address was given) may be elsewhere, and counts as 0.
cpu_now() {
  # A process may end while it is looked at.
  { cat /proc/[0-9]*/stat 2>/dev/null || true; } | awk -v roots="${SERVE:-0} ${POSTMASTER:-0} ${BROKER_PID:-0}" -v hz="$(getconf CLK_TCK)" '
    { pid = $1; sub(/^.*\) /, ""); up[pid] = $2; ticks[pid] = $12 + $13 + $14 + $15 }
    END {
      split(roots, root, " ")
      for (pid in ticks) for (p = pid; p > 1; p = up[p]) for (i = 1; i <= 3; i++) if (p == root[i]) sum[i] += ticks[pid]
      printf "%.2f %.2f %.2f\n", sum[1] / hz, sum[2] / hz, sum[3] / hz
    }'
}

# per_10k BEFORE AFTER COUNT: what worker, Postgres and broker took for 10 000.
per_10k() {
  awk -v b="$1" -v a="$2" -v n="$3" 'BEGIN { split(b, x); split(a, y); for (i = 1; i <= 3; i++) printf "%.3f ", (y[i] - x[i]) * 10000 / n }'
}

calc() { awk "BEGIN { printf \"${2:-%.0f}\", $1 }"; }
is() { awk "BEGIN { exit !($1) }"; }

# round_is RATE WORKER POSTGRES BROKER...: one round's figures; the rate decides which round is the median.
round_is() {
  ROUND_LINES+=("$*")
  say "round ${#ROUND_LINES[@]}: $*"
}

# The figures of the median round; with an even count the lower of the two in the middle.
median_round() { printf '%s\n' "${ROUND_LINES[@]}" | sort -g | sed -n "$(((${#ROUND_LINES[@]} + 1) / 2))p"; }

spread() { printf '%s\n' "${ROUND_LINES[@]}" | sort -g | awk '{ r[NR] = $1 } END { print r[1] " to " r[NR] }'; }

# figure KEY VALUE UNIT [OPERATOR GATE]: a figure of the result, compared with its gate if it has one.
figure() {
  local text="$2 $3" json="\"value\":$2,\"unit\":\"$3\"" verdict=reached reached=true
  if (($# > 3)); then
    if ! is "$2 $4 $5"; then verdict=missed reached=false MISSED=true; fi
    text+=" (gate $4 $5: $verdict)"
    json+=",\"gate\":\"$4 $5\",\"reached\":$reached"
  fi
  FIGURE_TEXTS+=("$text")
  FIGURE_JSON+=("\"$1\":{$json}")
}

# The CPU of a median round.
cpu_figures() {
  figure worker_cpu_s_per_10k "$1" 'worker CPU-s per 10 000' "${@:4}"
  figure postgres_cpu_s_per_10k "$2" 'postgres'
  figure broker_cpu_s_per_10k "$3" 'broker'
}

# One small synchronous write to the folder of the database (or ours, when that cannot be seen), in milliseconds.
fsync_ms() {
  local folder
  folder=$(sql -c 'SHOW data_directory' 2>/dev/null || true)
  [[ -d $folder && -w $folder ]] || folder=$WORK
  LC_ALL=C dd if=/dev/zero of="$folder/bench.fsync" bs=8k count=400 oflag=dsync 2>&1 |
    awk -F, '/copied/ { sub(/ s$/, "", $(NF - 1)); printf "%.3f", $(NF - 1) / 400 * 1000 }'
  rm -f "$folder/bench.fsync"
}

machine_is() {
  CORES=$(nproc)
  CPU_MODEL=$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
  FSYNC=$(fsync_ms)
  MACHINE="$CORES cores ${CPU_MODEL:-unknown}, fsync $FSYNC ms, $(date +%F)"
  say "$MACHINE"
}

join_by() {
  local separator=$1 first=$2
  shift 2
  printf '%s' "$first" "${@/#/$separator}"
}

conclude() {
  local name=$BENCH rounds=''
  if $AUTH; then name+=' --auth'; fi
  if ((DELAY)); then name+=" --delay $DELAY"; fi
  if ((${#ROUND_LINES[@]} > 1)); then rounds="; ${#ROUND_LINES[@]} rounds, $(spread)"; fi
  if $JSON; then
    printf '{"bench":"%s","date":"%s","machine":{"cores":%d,"cpu":"%s","fsync_ms":%s},"quick":%s,"rounds":[%s],"figures":{%s},"reached":%s}\n' \
      "$name" "$(date +%FT%T%z)" "$CORES" "$CPU_MODEL" "$FSYNC" "$QUICK" "$(printf '%s\n' "${ROUND_LINES[@]}" | awk 'NF { printf "%s%s", s, $1; s = "," }')" \
      "$(join_by , "${FIGURE_JSON[@]}")" "$(if $MISSED; then echo false; else echo true; fi)"
  else
    printf 'bench %s: %s%s%s; %s\n' "$name" "$(join_by ', ' "${FIGURE_TEXTS[@]}")" "$rounds" "$NOTES" "$MACHINE"
  fi
  if $MISSED; then exit 1; fi
}

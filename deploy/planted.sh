#!/usr/bin/env bash
# Tests the tests: plants one bug after the other (tests/planted/*.patch) in a copy of the checkout and expects the test
# that its first line names to fail.
#   deploy/planted.sh              all of them, some minutes each
#   deploy/planted.sh NAME...      only these (file names without .patch)
#   deploy/planted.sh --check      only whether each still fits the code
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$CHECKOUT"

readonly COPY=$CHECKOUT/target/planted
readonly FEATURES=fault-points

# The committed code, without a target folder of its own in it.
make_copy() {
  rm -rf "$COPY"
  git clone --quiet --shared "$CHECKOUT" "$COPY"
}

fits() { git apply --check "$1" 2>/dev/null; }

check_all() {
  local patch failed=0
  for patch in "$@"; do
    if ! fits "$patch"; then
      say "$patch no longer fits the code: plant the bug again"
      failed=1
    fi
  done
  return "$failed"
}

# caught PATCH: runs what its first line names, with the bug in place.
caught() {
  local filter status=0
  filter=$(sed -n '1s/^caught by: //p' "$1")
  [[ -n $filter ]] || die "$1 does not begin with 'caught by: '"
  git -C "$COPY" checkout --quiet .
  git -C "$COPY" apply "$1"
  if [[ $filter == chaos ]]; then
    # On servers of its own, which it may stop.
    (cd "$COPY" && unset DATABASE_URL AMQP_URL && deploy/chaos.sh --short --dev) >"$COPY.log" 2>&1 || status=$?
    (cd "$COPY" && deploy/services.sh down --purge) >/dev/null 2>&1 || true
    [[ $status -ne 0 ]] && grep -q '^chaos: ' "$COPY.log"
  else
    # 100 is "a test failed"; a build that fails, or a filter without a test, is no proof.
    (cd "$COPY" && cargo nextest run --features "$FEATURES" -E "$filter") >"$COPY.log" 2>&1 || status=$?
    [[ $status -eq 100 ]]
  fi
}

plant_all() {
  local patch name missed=0
  for patch in "$@"; do
    name=$(basename "$patch" .patch)
    if caught "$patch"; then
      printf 'caught  %s\n' "$name"
    else
      printf 'MISSED  %s (%s)\n' "$name" "$COPY.log"
      cp "$COPY.log" "$CHECKOUT/target/planted-$name.log"
      missed=$((missed + 1))
    fi
  done
  printf 'planted: %d missed: %d\n' "$#" "$missed"
  return "$((missed > 0))"
}

if [[ ${1:-} == --check ]]; then
  check_all "$CHECKOUT"/tests/planted/*.patch
  exit
fi
if (($#)); then patches=("${@/#/$CHECKOUT/tests/planted/}") && patches=("${patches[@]/%/.patch}"); else patches=("$CHECKOUT"/tests/planted/*.patch); fi
need_cargo
command -v cargo-nextest >/dev/null || die 'cargo-nextest is missing: cargo install cargo-nextest'
check_all "${patches[@]}"
deploy/services.sh up
variables=$(deploy/services.sh env)
eval "$variables"
# A planted bug in a statement is checked against a database of its own, for .sqlx does not know it.
server=$DATABASE_URL database=planted_$$
psql -qX "$server" -c "CREATE DATABASE $database"
trap 'psql -qX "$server" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)"' EXIT
export DATABASE_URL=${server%/*}/$database SQLX_OFFLINE=false
for file in migrations/*.sql; do psql -qX "$DATABASE_URL" -v ON_ERROR_STOP=1 -1 -f "$file" >/dev/null; done
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CHECKOUT/target}/planted
make_copy
plant_all "${patches[@]}"

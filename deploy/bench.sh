#!/usr/bin/env bash
# Measures the product against its budget: release build, real services of this checkout, bounded in count and time.
#
#   deploy/bench.sh BENCH [--quick] [--rounds R] [--n N] [--json]
#
#   drain [--delay MS]    due messages of 8 unlimited numbers -> an nginx stub -> accepted rows
#   drain --peers DIR     the same beside `DIR/bench.py peer node-batch-long`, in turns; prints the ratio
#   callbacks             signed webhooks, one status each -> applied rows
#   endtoend              due messages -> the simulator -> sent, delivered and read applied
#   intake                jobs of one recipient that wait in RabbitMQ -> committed rows
#   import                a CSV, numbers fully checked -> committed messages of a batch
#   latency               one job at a time, nothing else to do: publish -> the provider's call
#   latency --auth        authentication jobs while marketing and utility saturate their number and the intake
#   pacing                numbers of 80/s and 1 000/s: the worst second and the mean at the provider
#   memory                the worker's memory with 10 000 and with 1 000 000 pending messages
#   cost                  CPU per message over counts of messages, of numbers, and beside a million held ones
#   checklist             10 000 000 messages over 14 months: every filter, first and later pages; exports of a tenth of them
#   idle                  5 000 numbers with no work: CPU of worker and Postgres
#
# The last line is `bench BENCH: ...`, or one JSON object with --json. Exit code 1 when a gate is missed, so that a
# script can compare; other failures say what happened. --quick takes shorter rounds: for a look, not for a table.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=deploy/bench/figures.sh
source "$CHECKOUT/deploy/bench/figures.sh"
# shellcheck source=deploy/bench/setup.sh
source "$CHECKOUT/deploy/bench/setup.sh"
# shellcheck source=deploy/bench/drain.sh
source "$CHECKOUT/deploy/bench/drain.sh"
# shellcheck source=deploy/bench/flow.sh
source "$CHECKOUT/deploy/bench/flow.sh"
# shellcheck source=deploy/bench/pace.sh
source "$CHECKOUT/deploy/bench/pace.sh"
# shellcheck source=deploy/bench/cost.sh
source "$CHECKOUT/deploy/bench/cost.sh"
# shellcheck source=deploy/bench/checklist.sh
source "$CHECKOUT/deploy/bench/checklist.sh"

usage() {
  sed -n '2,/^set /{ /^#/ s/^# \{0,1\}//p }' "${BASH_SOURCE[0]}" >&2
  exit 2
}

QUICK=false JSON=false N='' ROUNDS='' DELAY=0 PEERS='' AUTH=false
BENCH=${1:-}
[[ $BENCH =~ ^(drain|callbacks|endtoend|intake|import|latency|pacing|memory|cost|idle|checklist)$ ]] || usage
shift
while (($#)); do
  case $1 in
    --quick) QUICK=true ;;
    --json) JSON=true ;;
    --auth) AUTH=true ;;
    --n) N=$2; shift ;;
    --rounds) ROUNDS=$2; shift ;;
    --delay) DELAY=$2; shift ;;
    --peers) PEERS=$(cd "$2" && pwd -P); shift ;;
    *) usage ;;
  esac
  shift
done

WORK=$(mktemp -d "${TMPDIR:-/tmp}/campaign-dispatch-bench.XXXXXX")
chmod 755 "$WORK"
trap finish EXIT
trap 'exit 130' INT TERM HUP
prepare
"bench_$BENCH"
conclude

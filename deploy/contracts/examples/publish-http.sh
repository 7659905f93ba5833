#!/bin/sh
# Publishes one job by HTTP with curl and prints the answer.
#
#   DISPATCH__CLIENT__URL=http://127.0.0.1:8080 DISPATCH__CLIENT__TOKEN=cdt_… publish-http.sh job.json
#
# The token needs the scope publish. The same job_id may be published again until it is answered: it is sent once.
# Exit code 0 when it was accepted (202), 22 when it was refused.
set -eu

exec curl --silent --show-error --fail-with-body --max-time 30 \
  --header "Authorization: Bearer $DISPATCH__CLIENT__TOKEN" \
  --header 'Content-Type: application/json' \
  --data-binary @"$1" \
  "${DISPATCH__CLIENT__URL:-http://127.0.0.1:8080}/v1/jobs"

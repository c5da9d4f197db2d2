#!/usr/bin/env bash
# Writes to one of twenty products again and again, until it is stopped.
set -euo pipefail

export AWS_PAGER=""
written=0
while true; do
    aws dynamodb put-item --table-name products \
        --item "{\"pk\": {\"S\": \"$((RANDOM % 20))\"}, \"price\": {\"N\": \"$RANDOM\"}}"
    written=$((written + 1))
    if [ $((written % 20)) -eq 0 ]; then
        echo "$written writes"
    fi
done

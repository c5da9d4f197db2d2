#!/usr/bin/env bash
# Makes the table with its stream, the function and its event source mapping. What exists is left as it is.
set -euo pipefail

here=$(dirname "$0")
zip=${FUNCTION_ZIP:-/function/function.zip}
table=products
function=ringtide-invalidator
export AWS_PAGER=""

echo "waiting for $AWS_ENDPOINT_URL ..."
tries=0
until aws dynamodb list-tables >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -ge 60 ]; then
        echo "$AWS_ENDPOINT_URL does not answer; see the top of infra/compose.yaml" >&2
        exit 1
    fi
    sleep 1
done

if ! aws dynamodb describe-table --table-name "$table" >/dev/null 2>&1; then
    aws dynamodb create-table --table-name "$table" --billing-mode PAY_PER_REQUEST \
        --attribute-definitions AttributeName=pk,AttributeType=S --key-schema AttributeName=pk,KeyType=HASH \
        --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES >/dev/null
fi
aws dynamodb wait table-exists --table-name "$table"
stream=$(aws dynamodb describe-table --table-name "$table" --query Table.LatestStreamArn --output text)
echo "table $table, stream $stream"

case "$(uname -m)" in
    aarch64 | arm64) architecture=arm64 ;;
    *) architecture=x86_64 ;;
esac
if ! aws lambda get-function --function-name "$function" >/dev/null 2>&1; then
    environment=$(python3 -c 'import json, sys
print(json.dumps({"Variables": {"RINGTIDE_CONFIG_TEXT": open(sys.argv[1]).read()}}))' "$here/ringtide.toml")
    aws lambda create-function --function-name "$function" --runtime provided.al2023 --handler bootstrap \
        --architectures "$architecture" --role arn:aws:iam::000000000000:role/local --memory-size 256 --timeout 30 \
        --environment "$environment" --zip-file "fileb://$zip" >/dev/null
    aws lambda wait function-active-v2 --function-name "$function"
fi
mapped=$(aws lambda list-event-source-mappings --function-name "$function" --query 'length(EventSourceMappings)' --output text)
if [ "$mapped" = 0 ]; then
    aws lambda create-event-source-mapping --function-name "$function" --event-source-arn "$stream" \
        --starting-position TRIM_HORIZON --batch-size 500 --function-response-types ReportBatchItemFailures >/dev/null
fi
echo "function $function, mapped to the stream"

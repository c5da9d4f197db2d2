"""The function, its event source mappings, and what becomes of what they give up."""

import json

from stack import ROOT, TEMPLATE, text_of, violations

EVENTS = {"INSERT", "MODIFY", "REMOVE"}


def mappings(stack, kind):
    """Event source mappings of streams (`dynamodb`) or of queues (`sqs`)."""
    return {
        name: resource["Properties"]
        for name, resource in stack.of_type("AWS::Lambda::EventSourceMapping").items()
        if ("StartingPosition" in resource["Properties"]) == (kind == "dynamodb")
    }


def stream(stack):
    """The one mapping of the table's stream."""
    ((_, mapping),) = mappings(stack, "dynamodb").items()
    return mapping


def built_by_cargo_lambda(stack):
    for name, resource in stack.source["Resources"].items():
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        metadata, properties = resource.get("Metadata", {}), resource["Properties"]
        if metadata.get("BuildMethod") != "rust-cargolambda":
            yield f"{name} is not built by cargo-lambda"
        if metadata.get("BuildProperties", {}).get("Binary") != "bootstrap":
            yield f"{name} does not name the binary, so the build fails in a workspace"
        if properties.get("Handler") != "bootstrap" or properties.get("Runtime") != "provided.al2023":
            yield f"{name} is no custom runtime"
        crate = (TEMPLATE.parent / properties["CodeUri"] / "Cargo.toml").resolve()
        if not crate.exists() or 'name = "bootstrap"' not in crate.read_text():
            yield f"{name}'s code is not in a crate with that binary"
    if "panic = \"unwind\"" not in (ROOT / "Cargo.toml").read_text():
        yield "without panic = \"unwind\" in the release profile cargo-lambda builds with panic = \"abort\""


def both_architectures(stack):
    if set(stack.source["Parameters"]["Architecture"]["AllowedValues"]) != {"arm64", "x86_64"}:
        yield "arm64 and x86_64 are to choose from"
    if stack.properties("Invalidator").get("Architectures") != [stack.values["Architecture"]]:
        yield "the function is not built for the architecture that was asked for"


def record_age_is_bounded(stack):
    age = stream(stack).get("MaximumRecordAgeInSeconds", -1)
    if not 60 <= age <= 604800:
        yield f"a maximum record age of {age}"
    for refused in ("-1", "0", "59", "604801"):
        if "MaximumRecordAge is out of bounds" not in violations(stack.source, {"MaximumRecordAge": refused}):
            yield f"a maximum record age of {refused} is accepted"


def retries_are_finite(stack):
    retries = stream(stack).get("MaximumRetryAttempts", -1)
    if not 0 <= retries <= 10000:
        yield f"{retries} retries"
    if "MaximumRetries is out of bounds" not in violations(stack.source, {"MaximumRetries": "-1"}):
        yield "endless retries are accepted"


def single_records_can_fail(stack):
    for kind in ("dynamodb", "sqs"):
        for name, mapping in mappings(stack, kind).items():
            if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
                yield f"{name} does not report single failures"


def failed_batches_are_split(stack):
    if stream(stack).get("BisectBatchOnFunctionError") is not True:
        yield "a failing batch is not split"
    if stream(stack).get("TumblingWindowInSeconds"):
        yield "a tumbling window asks for another kind of answer"


def filter_is_of_event_names(stack):
    for one in stream(stack).get("FilterCriteria", {}).get("Filters", []):
        try:
            pattern = json.loads(one["Pattern"])
        except (TypeError, ValueError):
            yield "a filter pattern is no JSON"
            continue
        if set(pattern) != {"eventName"} or not pattern["eventName"] or not set(pattern["eventName"]) <= EVENTS:
            yield f"a filter of something else than event names: {pattern}"
    if bool(stack.given.get("FilterPattern")) != ("FilterCriteria" in stream(stack)):
        yield "the filter pattern does not arrive at the event source mapping"
    for refused in ("{", '{"eventName":["UPDATE"]}', '{"eventName":[]}', '{"awsRegion":["INSERT"]}'):
        if "FilterPattern does not match its pattern" not in violations(stack.source, {"FilterPattern": refused}):
            yield f"the filter pattern {refused} is accepted"


def what_is_given_up_comes_back(stack):
    if mappings(stack, "sqs").keys() != {"InvalidatorGivenUp"}:
        yield "the on-failure queue is no event source"
        return
    back = mappings(stack, "sqs")["InvalidatorGivenUp"]
    if back["FunctionName"] != stream(stack)["FunctionName"]:
        yield "the on-failure queue's batches go to another function"
    queue = {"Fn::GetAtt": ["GivenUp", "Arn"]}
    if back["EventSourceArn"] != queue:
        yield "another queue than the on-failure queue is the event source"
    destination = stream(stack).get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    if stack.values["OnFailure"] == "sqs":
        if destination != queue:
            yield "batches that are given up do not go to the on-failure queue"
        return
    if destination != {"Fn::GetAtt": ["GivenUpBucket", "Arn"]}:
        yield "batches that are given up do not go to the bucket"
    notices = stack.properties("GivenUpBucket").get("NotificationConfiguration", {}).get("QueueConfigurations", [])
    prefixes = [rule for each in notices for rule in each["Filter"]["S3Key"]["Rules"]]
    if [each["Queue"] for each in notices] != [queue] or prefixes != [{"Name": "prefix", "Value": "aws/lambda/"}]:
        yield "the bucket does not notify the on-failure queue of what Lambda leaves there"
    policy = stack.properties("GivenUpFromBucket").get("PolicyDocument", {}).get("Statement", [])
    bucket = f"arn:aws:s3:::{stack.properties('GivenUpBucket').get('BucketName')}"
    if [each["Condition"]["ArnEquals"]["aws:SourceArn"] for each in policy] != [bucket]:
        yield "the on-failure queue does not take the bucket's notices"
    if stack.resources["GivenUpBucket"].get("DependsOn") != ["GivenUpFromBucket"]:
        yield "S3 refuses the bucket if the queue's policy is not there first"


def queues_outlast_the_function(stack):
    timeout = int(stack.properties("Invalidator")["Timeout"])
    for name, mapping in mappings(stack, "sqs").items():
        queue = stack.properties(mapping["EventSourceArn"]["Fn::GetAtt"][0])
        if queue.get("VisibilityTimeout", 30) < 6 * timeout:
            yield f"{name}: the visibility timeout is under six times the function's {timeout} s"
        redrive = queue.get("RedrivePolicy", {})
        if redrive.get("deadLetterTargetArn") != {"Fn::GetAtt": ["DeadLetters", "Arn"]}:
            yield f"{name}: the queue has no dead-letter queue"
        if not 5 <= redrive.get("maxReceiveCount", 0) <= 1000:
            yield f"{name}: messages are given up too early, or never"
    for timeout in stack.source["Parameters"]["Timeout"]["AllowedValues"]:
        if str(timeout) not in stack.source["Mappings"]["Visibility"]:
            yield f"there is no visibility timeout for a time-out of {timeout}"


def queues_keep_what_they_got(stack):
    for name, queue in stack.of_type("AWS::SQS::Queue").items():
        if queue["Properties"].get("SqsManagedSseEnabled") is not True:
            yield f"{name} is not encrypted"
        if queue["Properties"].get("MessageRetentionPeriod") != 1209600:
            yield f"{name} keeps messages for less than the 14 days that are possible"


def stream_is_the_tables(stack):
    expected = {"Fn::GetAtt": ["Table", "StreamArn"]} if stack.given.get("NewTable") else stack.given["StreamArn"]
    if stream(stack)["EventSourceArn"] != expected:
        yield "another stream is followed"
    if stream(stack).get("StartingPosition") != "TRIM_HORIZON":
        yield "a new mapping misses what was written before it was ready"


def new_table_is_kept(stack):
    for name, table in stack.of_type("AWS::DynamoDB::Table").items():
        if table.get("DeletionPolicy") != "Retain" or table.get("UpdateReplacePolicy") != "Retain":
            yield f"{name} is deleted with the stack"
        if "StreamViewType" not in table["Properties"].get("StreamSpecification", {}):
            yield f"{name} has no stream"
        if not table["Properties"].get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
            yield f"{name} cannot be recovered"


def parked_records_are_kept(stack):
    to = stack.properties("Invalidator")["Environment"]["Variables"].get("RINGTIDE_PARK_TO")
    expected = {"sqs": '{"Ref": "ParkQueue"}', "s3": "s3://${ParkBucket}/parked", "none": "null"}
    if text_of(to) != expected[stack.values["Park"]]:
        yield f"records are parked at {to}"


RULES = [
    built_by_cargo_lambda,
    both_architectures,
    record_age_is_bounded,
    retries_are_finite,
    single_records_can_fail,
    failed_batches_are_split,
    filter_is_of_event_names,
    what_is_given_up_comes_back,
    queues_outlast_the_function,
    queues_keep_what_they_got,
    stream_is_the_tables,
    new_table_is_kept,
    parked_records_are_kept,
]

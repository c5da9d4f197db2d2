"""Configuration, logs, alarms, the dashboard, outputs, and what a minimal deployment creates."""

import json
import re
import tomllib

from facts import metrics, variables
from stack import ROOT, TEMPLATE, text_of

AWS_METRICS = {
    "AWS/Lambda": {"IteratorAge", "Errors", "Throttles", "Invocations", "Duration", "ConcurrentExecutions"},
    "AWS/SQS": {"NumberOfMessagesSent", "ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"},
}
ALARMS = {
    ("IteratorAge", "Invalidator"),
    ("Errors", "Invalidator"),
    ("Throttles", "Invalidator"),
    ("ringtide_pipeline_parked_total", "Invalidator"),
    ("ringtide_gaps_total", "Invalidator"),
    ("NumberOfMessagesSent", "GivenUp"),
    ("ApproximateNumberOfMessagesVisible", "GivenUp"),
    ("ApproximateNumberOfMessagesVisible", "DeadLetters"),
}
# What is created where table and cache exist, nothing is parked and no dashboard is wanted.
MINIMAL = {
    "AWS::Lambda::Function": 1,
    "AWS::Lambda::EventSourceMapping": 2,
    "AWS::IAM::Role": 1,
    "AWS::Logs::LogGroup": 1,
    "AWS::SQS::Queue": 2,
    "AWS::CloudWatch::Alarm": len(ALARMS),
}
FOR_READERS = {
    "RingShards", "ValkeyTls", "ValkeyCluster", "ReaderUsername", "WorkerUsername", "ReaderPolicyArn",
    "ReaderSecurityGroupId", "CacheSecurityGroupId",
}


def environment(stack):
    return stack.properties("Invalidator")["Environment"]["Variables"]


def exists(namespace, metric):
    return metric in (metrics() if namespace == "Ringtide" else AWS_METRICS.get(namespace, set()))


def environment_is_understood(stack):
    for name, value in environment(stack).items():
        if name.startswith("RINGTIDE_") and name not in variables():
            yield f"{name} sets nothing"
        if isinstance(value, (int, float, bool)):
            yield f"{name} is no text"
    shards = text_of(environment(stack).get("RINGTIDE_RING_SHARDS", "[]"))
    try:
        ring = tomllib.loads("ring = " + re.sub(r"\$\{[^}]+\}", "host", shards))["ring"]
        if not all(set(shard) <= {"name", "address", "weight"} for shard in ring):
            yield "a ring shard has something else than name, address and weight"
    except tomllib.TOMLDecodeError as error:
        yield f"RINGTIDE_RING_SHARDS is no TOML: {error}"
    sources = [name for name in ("RINGTIDE_CONFIG", "RINGTIDE_CONFIG_TEXT") if name in environment(stack)]
    asked = [name for name in ("Configuration", "ConfigParameter", "ConfigObject") if stack.values[name]]
    if len(sources) != len(asked):
        yield f"the configuration comes from {sources}"
    if stack.values["ConfigParameter"] and environment(stack).get("RINGTIDE_CONFIG") != "ssm:" + stack.values["ConfigParameter"]:
        yield "the configuration comes from another parameter"
    if stack.values["ConfigObject"] and environment(stack).get("RINGTIDE_CONFIG") != "s3://" + stack.values["ConfigObject"]:
        yield "the configuration comes from another object"


def logs_are_json_and_expire(stack):
    logging = stack.properties("Invalidator").get("LoggingConfig", {})
    if logging.get("LogFormat") != "JSON" or logging.get("LogGroup") != {"Ref": "InvalidatorLogs"}:
        yield "the function logs otherwise"
    if not stack.properties("InvalidatorLogs").get("RetentionInDays"):
        yield "logs are kept for ever"


def alarms_watch_what_exists(stack):
    watched = set()
    for name, alarm in stack.of_type("AWS::CloudWatch::Alarm").items():
        alarm = alarm["Properties"]
        if not exists(alarm["Namespace"], alarm["MetricName"]):
            yield f"{name}: there is no metric {alarm['Namespace']} {alarm['MetricName']}"
        (dimension,) = alarm["Dimensions"]
        value = dimension["Value"]
        of = value.get("Ref") or value["Fn::GetAtt"][0]
        watched.add((alarm["MetricName"], of))
        if dimension["Name"] != ("QueueName" if alarm["Namespace"] == "AWS/SQS" else "FunctionName"):
            yield f"{name}: no metric has the dimension {dimension['Name']}"
        if alarm.get("TreatMissingData") != "notBreaching" or alarm["ComparisonOperator"] != "GreaterThanThreshold":
            yield f"{name} rings when all is well"
        if not alarm.get("AlarmDescription"):
            yield f"{name} does not say what it means"
        topic = stack.given.get("AlarmTopicArn")
        if alarm.get("AlarmActions") != ([topic] if topic else None):
            yield f"{name} tells nobody"
    if watched != ALARMS:
        yield f"nobody watches {sorted(ALARMS - watched)}, or too much: {sorted(watched - ALARMS)}"


def dashboard_shows_what_exists(stack):
    if (stack.values["Dashboard"] == "true") != ("Overview" in stack.resources):
        yield "a dashboard too much or too little"
    if "Overview" not in stack.resources:
        return
    try:
        body = json.loads(text_of(stack.properties("Overview")["DashboardBody"]))
    except ValueError as error:
        yield f"the dashboard is no JSON: {error}"
        return
    for widget in body["widgets"]:
        for metric in widget["properties"]["metrics"]:
            if isinstance(metric[0], dict):
                namespace = re.search(r"\{(\w+),FunctionName", metric[0]["expression"])[1]
                name = re.search(r'MetricName="(\w+)"', metric[0]["expression"])[1]
            else:
                namespace, name = metric[:2]
            if not exists(namespace, name):
                yield f"the dashboard shows {namespace} {name}, which does not exist"


def readers_are_told_everything(stack):
    expected = {"FunctionName", "FunctionArn", "LogGroup", "TableStreamArn", "GivenUpQueueUrl", "DeadLetterQueueUrl"}
    if stack.values["Cache"] != "existing":
        expected |= FOR_READERS
        expected |= {
            "iam": {"IamCacheName", "IamServerlessCache"},
            "password": {"ReaderSecretArn", "WorkerSecretArn"},
        }[stack.values["Authentication"]]
    if stack.values["Park"] != "none":
        expected |= {"ParkTo"}
    if stack.values["NewTable"]:
        expected |= {"TableName"}
    missing = expected - stack.outputs.keys()
    if missing:
        yield f"the outputs {sorted(missing)} are missing"


def everything_is_described(stack):
    for kind in ("Parameters", "Outputs"):
        for name, part in stack.source[kind].items():
            if not part.get("Description"):
                yield f"{name} is not described"
    grouped = stack.source["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    if sorted(name for group in grouped for name in group["Parameters"]) != sorted(stack.source["Parameters"]):
        yield "the console's groups do not hold every parameter once"


def minimal_is_minimal(stack):
    existing = not any(stack.given.get(name) for name in ("NewTable", "SubnetIds")) and stack.values["Cache"] == "existing"
    if not existing or (stack.values["Park"], stack.values["OnFailure"], stack.values["Dashboard"]) != ("none", "sqs", "false"):
        return
    counted = {}
    for resource in stack.resources.values():
        counted[resource["Type"]] = counted.get(resource["Type"], 0) + 1
    if counted != MINIMAL:
        yield f"a minimal deployment creates {counted}"


def samconfig(text):
    """What is wrong with a samconfig.toml; no rule of a template."""
    config = tomllib.loads(text)
    for command in ("build", "validate"):
        named = config["default"][command]["parameters"]["template_file"]
        if (ROOT / named).resolve() != TEMPLATE.resolve():
            yield f"sam {command} takes another template"
    for name in ("default", "local"):
        deploy = config[name]["deploy"]["parameters"]
        if deploy.get("capabilities") != "CAPABILITY_IAM" or not deploy.get("stack_name"):
            yield f"sam deploy --config-env {name} asks questions"


RULES = [
    environment_is_understood,
    logs_are_json_and_expire,
    alarms_watch_what_exists,
    dashboard_shows_what_exists,
    readers_are_told_everything,
    everything_is_described,
    minimal_is_minimal,
]

"""infra/worker.yaml: cfn-lint, and what it cannot know."""

import re
from pathlib import Path
from typing import Any

import facts
import yaml
from findings import Report

FILE = "infra/worker.yaml"
# The one call whose permission IAM cannot narrow.
UNNARROWED = {"ecr:GetAuthorizationToken"}

# The calls of DynamoDB's client, and what each needs.
CALLS = {
    "batch_get_item": "dynamodb:BatchGetItem",
    "create_table": "dynamodb:CreateTable",
    "delete_item": "dynamodb:DeleteItem",
    "describe_stream": "dynamodb:DescribeStream",
    "describe_table": "dynamodb:DescribeTable",
    "describe_time_to_live": "dynamodb:DescribeTimeToLive",
    "get_item": "dynamodb:GetItem",
    "get_records": "dynamodb:GetRecords",
    "get_shard_iterator": "dynamodb:GetShardIterator",
    "put_item": "dynamodb:PutItem",
    "query": "dynamodb:Query",
    "scan": "dynamodb:Scan",
    "update_item": "dynamodb:UpdateItem",
}
PARKING = {CALLS[name] for name in ("create_table", "put_item")}
EMPTYING = {CALLS[name] for name in ("delete_item", "get_item", "scan")}
STREAM, PARK = "worker/src/stream/dynamodb.rs", "shared/src/aws/park/table.rs"
# Policy, the condition that it is granted under, its statements, the sources that call, and what another row grants.
TABLES = [
    ("streams", None, {"Tables", "Streams"}, [STREAM], set()),
    ("streams", None, {"Leases"}, ["worker/src/lease/dynamodb.rs"], set()),
    ("probe", "Probes", {"ProbeTable", "ProbeStream"}, ["worker/src/probe/table.rs", STREAM], set()),
    ("park-table", "ParksInTable", {None}, [PARK], EMPTYING),
    ("operator-park-table", "EmptiesTable", {None}, [PARK], PARKING),
    ("operator-tables", "Operates", {"AuditAndWarm"}, ["worker/src/table.rs", "worker/src/warm.rs"], {CALLS["describe_table"]}),
]


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their long ones."""


def short_form(loader: Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        value = value.split(".", 1) if suffix == "GetAtt" else value
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", short_form)


def check(root: Path, report: Report) -> None:
    if report.wants("cfn-lint"):
        linted(root, report)
    try:
        template = yaml.load((root / FILE).read_text(), Loader)
    except yaml.YAMLError as error:
        report.add(FILE, "own", f"not YAML: {error}")
        return
    known = facts.read(root)
    resources = template["Resources"]
    policies(resources, report)
    tables(root, resources["TaskRole"]["Properties"]["Policies"], report)
    service(template, report)
    containers = [plain(c) for c in resources["Task"]["Properties"]["ContainerDefinitions"]]
    for container in containers:
        hardened(container, report)
    worker(template, containers[0], known, report)
    metrics(resources, containers[1], known, report)


def linted(root: Path, report: Report) -> None:
    try:
        from cfnlint.api import ManualArgs, lint
    except ImportError:
        report.skip("cfn-lint", f"{FILE} was not linted")
        return
    for match in lint((root / FILE).read_text(), config=ManualArgs(regions=["us-east-1"])):
        report.add(FILE, "cfn-lint", f"line {match.linenumber}: {match.message}")


def policies(resources: dict, report: Report) -> None:
    for name, resource in resources.items():
        for statement in statements(resource.get("Properties", {})):
            actions = statement.get("Action", [])
            actions = [actions] if isinstance(actions, str) else actions
            for action in actions:
                report.expect("*" not in action, FILE, f"{name} allows {action}: name the actions")
            wide = statement.get("Resource") == "*" and not set(actions) <= UNNARROWED
            report.expect(not wide, FILE, f"{name} allows {', '.join(actions)} on every resource")
            report.expect("NotAction" not in statement, FILE, f"{name} allows by NotAction")


def tables(root: Path, given: list[dict], report: Report) -> None:
    """What may be done to each table is what the sources do to it, and only where its parameter is given."""
    for policy, condition, sids, files, elsewhere in TABLES:
        named = [(p["Fn::If"][0], p["Fn::If"][1]) if "Fn::If" in p else (None, p) for p in given]
        asked, found = next(((c, p) for c, p in named if p["PolicyName"] == policy), (None, {}))
        report.expect(asked == condition, FILE, f"the permissions {policy} are not granted under {condition} alone")
        listed = [s for s in found.get("PolicyDocument", {}).get("Statement", []) if s.get("Sid") in sids]
        actions = {a for s in listed for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])}
        text = "".join((root / file).read_text() for file in files)
        calls = {CALLS[name] for name in re.findall(r"\.(\w+)\(\)", text) if name in CALLS} - elsewhere
        for action in sorted(calls - actions):
            report.add(FILE, "own", f"{policy} does not allow {action}, which is called")
        for action in sorted(actions - calls):
            report.add(FILE, "own", f"{policy} allows {action}, which nothing calls")


def statements(value: Any) -> list[dict]:
    if isinstance(value, list):
        return [found for item in value for found in statements(item)]
    if not isinstance(value, dict):
        return []
    found = [value] if value.get("Effect") == "Allow" else []
    return found + [inner for item in value.values() for inner in statements(item)]


def plain(container: dict) -> dict:
    """A container that is only there under a condition, without the condition."""
    return container["Fn::If"][1] if "Fn::If" in container else container


def hardened(container: dict, report: Report) -> None:
    name = container["Name"]
    user = str(container.get("User", "")).split(":")[0]
    report.expect(user.isdigit() and int(user) > 0, FILE, f"container {name} runs as root")
    report.expect(container.get("ReadonlyRootFilesystem") is True, FILE, f"container {name} can write to its root")
    drop = container.get("LinuxParameters", {}).get("Capabilities", {}).get("Drop")
    report.expect(drop == ["ALL"], FILE, f"container {name} keeps capabilities")


def service(template: dict, report: Report) -> None:
    properties = template["Resources"]["Service"]["Properties"]
    deployment = properties.get("DeploymentConfiguration", {})
    overlap = deployment.get("MinimumHealthyPercent") == 100 and deployment.get("MaximumPercent", 0) >= 200
    report.expect(overlap, FILE, "an update stops the old task before the new one is healthy")
    breaker = deployment.get("DeploymentCircuitBreaker", {})
    report.expect(breaker.get("Enable") and breaker.get("Rollback"), FILE, "a failed update is not rolled back")
    group = template["Resources"]["SecurityGroup"]["Properties"]
    report.expect("SecurityGroupIngress" not in group, FILE, "the worker's security group lets something in")


def worker(template: dict, container: dict, known: facts.Facts, report: Report) -> None:
    drain = template["Parameters"]["DrainSeconds"]
    report.expect(drain["Default"] == known.drain_seconds, FILE, f"DrainSeconds is not {known.drain_seconds} by default")
    stop = container.get("StopTimeout", 30)
    enough = drain["MaxValue"] + facts.RELEASE < stop <= 120
    report.expect(enough, FILE, f"the task is killed after {stop} s, within a drain of {drain['MaxValue']} s")
    environment = [plain(entry) for entry in container["Environment"]]
    environment = [plain(entry) for entry in environment]
    for name in (entry["Name"] for entry in environment):
        known_name = not name.startswith("RINGTIDE_") or name in known.variables
        report.expect(known_name, FILE, f"the worker does not read {name}")
    health_check(container.get("HealthCheck", {}).get("Command", []), known, report, FILE)
    listens = {entry["Name"]: entry["Value"] for entry in environment}.get("RINGTIDE_WORKER_LISTEN")
    report.expect(listens == f"127.0.0.1:{known.port}", FILE, "health check and collector ask another address than the worker's")


def health_check(command: list[str], known: facts.Facts, report: Report, file: str) -> None:
    """A health check that works without a shell and without curl."""
    wanted = ["/usr/local/bin/ringtide", "health", "--url", f"http://127.0.0.1:{known.port}/healthz"]
    report.expect(command[-4:] == wanted, file, f"the health check is not {' '.join(wanted)}")
    report.expect("health" in known.commands, file, "the health check calls `ringtide health`, which does not exist")


def metrics(resources: dict, collector: dict, known: facts.Facts, report: Report) -> None:
    text = next(e["Value"] for e in collector["Environment"] if e["Name"] == "AOT_CONFIG_CONTENT")["Fn::Sub"]
    config = yaml.safe_load(re.sub(r"\$\{\w+\}", "name", text))
    scrape = config["receivers"]["prometheus"]["config"]["scrape_configs"][0]
    target = scrape["static_configs"][0]["targets"]
    report.expect(target == [f"127.0.0.1:{known.port}"], FILE, f"the collector scrapes {target}")
    kept = re.compile(scrape["metric_relabel_configs"][0]["regex"])
    declared = [re.compile(s) for d in config["exporters"]["awsemf"]["metric_declarations"] for s in d["metric_name_selectors"]]
    for metric in alternatives(kept.pattern):
        report.expect(metric in known.metrics, FILE, f"the collector keeps {metric}, which the worker does not have")
        report.expect(any(d.search(metric) for d in declared), FILE, f"the collector keeps {metric} and does not declare it")
    for name, resource in resources.items():
        metric = resource.get("Properties", {}).get("MetricName")
        if resource["Type"] == "AWS::CloudWatch::Alarm" and str(metric).startswith("ringtide_"):
            report.expect(metric in known.metrics, FILE, f"{name} watches {metric}, which the worker does not have")
            report.expect(kept.fullmatch(metric), FILE, f"{name} watches {metric}, which the collector does not keep")


def alternatives(pattern: str) -> list[str]:
    prefix, rest = pattern.split("(", 1)
    return [prefix + name for name in rest.rstrip(")").split("|")]

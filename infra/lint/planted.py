"""Mistakes that are planted in copies of the files, each with the linter that has to find it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cluster
import compose
import documents
import image
import stack
import unit
from findings import Report

STACK, IMAGE, IGNORE = "infra/worker.yaml", "infra/Dockerfile", "infra/Dockerfile.dockerignore"
PODS, COMPOSE, UNIT = "infra/kubernetes/deployment.yaml", "infra/compose.yaml", "infra/systemd/ringtide.service"


@dataclass(frozen=True)
class Mistake:
    """A text that is replaced, once, by a wrong one."""

    file: str
    tool: str
    what: str
    right: str
    wrong: str


MISTAKES = [
    Mistake(STACK, "cfn-lint", "a property that does not exist", "PropagateTags: SERVICE", "PropagateTag: SERVICE"),
    Mistake(STACK, "cfn-lint", "a reference to nothing", "TaskRoleArn: !GetAtt TaskRole.Arn", "TaskRoleArn: !GetAtt TaskRoles.Arn"),
    Mistake(STACK, "own", "every action on the tables", "Action: dynamodb:DescribeTable", 'Action: "dynamodb:*"'),
    Mistake(STACK, "own", "a permission on every resource", "Resource: !GetAtt Parked.Arn", 'Resource: "*"'),
    Mistake(STACK, "own", "a container that runs as root", 'User: "65532:65532"', 'User: "0:0"'),
    Mistake(STACK, "own", "a task that is killed while it drains", "StopTimeout: 120", "StopTimeout: 30"),
    Mistake(STACK, "own", "a health check of another port", "http://127.0.0.1:9464/healthz", "http://127.0.0.1:8080/healthz"),
    Mistake(STACK, "own", "a health check that needs a shell", "Command: [CMD, /usr/local/bin/ringtide, health, --url,", "Command: [CMD-SHELL, curl,"),
    Mistake(STACK, "own", "a variable that nobody reads", "RINGTIDE_WORKER_DRAIN_TIMEOUT", "RINGTIDE_WORKER_DRAINTIMEOUT"),
    Mistake(STACK, "own", "an update that stops the old task first", "MinimumHealthyPercent: 100", "MinimumHealthyPercent: 0"),
    Mistake(STACK, "own", "an alarm on a metric that does not exist", "MetricName: ringtide_gaps_total", "MetricName: ringtide_gap_total"),
    Mistake(STACK, "own", "a metric that is not collected", "|gaps_total|pipeline_parked_total|delivery", "|gaps_total|delivery"),
    Mistake(STACK, "own", "a call of the lease table that is not allowed", "                  - dynamodb:UpdateItem\n", ""),
    Mistake(STACK, "own", "a permission that nothing needs", "- dynamodb:UpdateItem", "- dynamodb:UpdateItem\n                  - dynamodb:DeleteTable"),
    Mistake(STACK, "own", "a probe that cannot write", "[dynamodb:CreateTable, dynamodb:DescribeTable, dynamodb:PutItem]", "[dynamodb:CreateTable, dynamodb:DescribeTable]"),
    Mistake(STACK, "own", "records that cannot be parked", "Action: [dynamodb:CreateTable, dynamodb:PutItem]", "Action: dynamodb:CreateTable"),
    Mistake(STACK, "own", "a worker that may always read the tables", "          - Operates\n          - PolicyName: operator-tables", "          - HasKeys\n          - PolicyName: operator-tables"),
    Mistake(STACK, "own", "an audit that may write", "Action: [dynamodb:BatchGetItem, dynamodb:Scan]", "Action: [dynamodb:BatchGetItem, dynamodb:PutItem, dynamodb:Scan]"),
    Mistake(STACK, "own", "a variable of probes that nobody reads", "RINGTIDE_PROBE_TABLE", "RINGTIDE_PROBES_TABLE"),
    Mistake(IMAGE, "hadolint", "a shell's command that is not checked", "&& install -D -m 0755 target/release/ringtide", "&& cd target | install -D -m 0755 release/ringtide"),
    Mistake(IMAGE, "hadolint", "a package without a version", "ministack[full]==1.5.33", "ministack"),
    Mistake(IMAGE, "own", "an image that runs as root", "USER 65532:65532\nWORKDIR /etc/ringtide", "USER 0\nWORKDIR /etc/ringtide"),
    Mistake(IMAGE, "own", "another toolchain than the project's", "FROM rust:1.95.0-", "FROM rust:1.80.0-"),
    Mistake(IMAGE, "own", "a build that ignores Cargo.lock", "cargo build --locked --release -p ringtide-worker", "cargo build --release -p ringtide-worker"),
    Mistake(IMAGE, "own", "no health check", "HEALTHCHECK --interval", "LABEL check=--interval"),
    Mistake(IGNORE, "own", "a workspace member that is not sent along", "!reader\n", ""),
    Mistake(PODS, "kubernetes-validate", "a misspelt field", "terminationGracePeriodSeconds: 45", "terminationGracePeriod: 45"),
    Mistake(PODS, "kubernetes-validate", "a text for a number", "replicas: 2", "replicas: two"),
    Mistake(PODS, "own", "a pod that is killed while it drains", "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 20"),
    Mistake(PODS, "own", "a pod that may run as root", "runAsNonRoot: true", "runAsNonRoot: false"),
    Mistake(PODS, "own", "a probe of a page that does not exist", "path: /healthz", "path: /health"),
    Mistake(PODS, "own", "probes that cannot reach the worker", "value: 0.0.0.0:9464", "value: 127.0.0.1:9464"),
    Mistake("infra/kubernetes/service.yaml", "own", "a selector that selects nothing", "    app.kubernetes.io/component: worker\n  ports", "    app.kubernetes.io/component: workers\n  ports"),
    Mistake("infra/kubernetes/ringtide.toml", "own", "a section that does not exist", "[spaces.product]", "[space.product]"),
    Mistake(COMPOSE, "compose-spec", "a misspelt field", "stop_grace_period: 45s", "stop_grace: 45s"),
    Mistake(COMPOSE, "compose-spec", "a number for a list", 'cap_drop: ["ALL"]\n    user', "cap_drop: 1\n    user"),
    Mistake(COMPOSE, "docker compose", "a dependency that does not exist", "setup: { condition: service_completed_successfully }\n    # More", "set-up: { condition: service_completed_successfully }\n    # More"),
    Mistake(COMPOSE, "own", "a port that is open to the network", '"127.0.0.1:9464:9464"', '"9464:9464"'),
    Mistake(COMPOSE, "own", "a worker that is killed while it drains", "stop_grace_period: 45s", "stop_grace_period: 10s"),
    Mistake("infra/compose/setup.sh", "own", "another table than the routes'", "table=products", "table=items"),
    Mistake(UNIT, "systemd-analyze", "a misspelt setting", "ProtectKernelLogs=yes", "ProtectKernelLog=yes"),
    Mistake(UNIT, "systemd-analyze", "a service that keeps its rights", "CapabilityBoundingSet=\n", "PrivateNetwork=no\n"),
    Mistake(UNIT, "own", "a service that is killed while it drains", "TimeoutStopSec=45s", "TimeoutStopSec=15s"),
    Mistake(UNIT, "own", "a wrong configuration that is tried again", "RestartPreventExitStatus=2", "RestartPreventExitStatus=3"),
    Mistake("infra/systemd/ringtide.env", "own", "a variable that nobody reads", "RINGTIDE_WORKER_IDLE_POLL", "RINGTIDE_WORKER_POLL"),
    Mistake("docs/sizing.md", "own", "a link that leads nowhere", "](configuration.md", "](configurations.md"),
]

CHECKS: dict[str, Callable[[Path, Report], None]] = {
    "infra/worker.yaml": stack.check,
    "infra/Dockerfile": image.check,
    "infra/kubernetes/": cluster.check,
    "infra/compose": compose.check,
    "infra/systemd/": unit.check,
    "docs/": documents.check,
}


def run(root: Path, skipped: dict[str, str]) -> tuple[int, list[Mistake]]:
    """Plants each mistake; returns how many were found, and those that were not. Linters that are missing find nothing."""
    missed, caught = [], 0
    unharmed: dict[tuple[str, str], set[str]] = {}
    with copy(root) as tree:
        for mistake in MISTAKES:
            if mistake.tool in skipped:
                continue
            kind = (concern(mistake), mistake.tool)
            before = unharmed[kind] if kind in unharmed else unharmed.setdefault(kind, finds(tree, mistake))
            path = tree / mistake.file
            text = path.read_text()
            if text.count(mistake.right) == 0:
                missed.append(mistake)
                continue
            path.write_text(text.replace(mistake.right, mistake.wrong, 1))
            found = finds(tree, mistake) - before
            path.write_text(text)
            if found:
                caught += 1
            else:
                missed.append(mistake)
    return caught, missed


def concern(mistake: Mistake) -> str:
    """Which check looks at the file."""
    return next(prefix for prefix in CHECKS if mistake.file.startswith(prefix))


def finds(tree: Path, mistake: Mistake) -> set[str]:
    """What the linter says of the tree now. An assertion that breaks off because of the mistake has found it."""
    report = Report(only=mistake.tool)
    try:
        CHECKS[concern(mistake)](tree, report)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        report.add(mistake.file, "own", f"broke off: {error!r}")
    return {str(finding) for finding in report.findings if finding.tool == mistake.tool}


@contextmanager
def copy(root: Path) -> Iterator[Path]:
    """The repository with `infra` and `docs` to write in; the rest are links."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for entry in root.iterdir():
            if entry.name in ("infra", "docs"):
                shutil.copytree(entry, tree / entry.name)
            else:
                (tree / entry.name).symlink_to(entry)
        yield tree

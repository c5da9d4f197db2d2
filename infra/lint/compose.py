"""infra/compose.yaml and its scripts: the specification's schema, the engine where it is installed, and own rules."""

import re
from pathlib import Path

import facts
import settings
import yaml
from findings import Report, output, program

FILE = "infra/compose.yaml"


def check(root: Path, report: Report) -> None:
    if report.wants("compose-spec"):
        schema(root, report)
    if report.wants("docker compose"):
        engine(root, report)
    try:
        document = yaml.safe_load((root / FILE).read_text())
    except yaml.YAMLError as error:
        report.add(FILE, "own", f"not YAML: {error}")
        return
    known = facts.read(root)
    for name, service in document["services"].items():
        rules(root, name, service, known, report)
    worker = document["services"]["worker"]
    grace = worker.get("stop_grace_period", "10s")
    report.expect(int(grace.removesuffix("s")) > known.grace, FILE, f"killed after {grace}, and the drain takes {known.drain_seconds} s")
    user = str(worker.get("user", "root")).split(":")[0]
    report.expect(user.isdigit() and int(user) > 0, FILE, "the worker runs as root")
    report.expect(worker.get("read_only") is True, FILE, "the worker can write to its root")
    config = settings.check(root, "infra/compose/ringtide.toml", known, report)
    addresses = {shard["address"].split(":")[0] for shard in config.get("ring", {}).get("shards", [])}
    report.expect(addresses <= set(document["services"]), FILE, f"ring shards that are no services: {addresses}")
    scripts(root, {route["table"] for route in config.get("routes", [])}, report)


def schema(root: Path, report: Report) -> None:
    checker = program("check-jsonschema")
    if checker is None:
        report.skip("compose-spec", f"{FILE} was not validated")
        return
    done = output([checker, "--builtin-schema", "vendor.compose-spec", str(root / FILE)])
    if done.returncode != 0:
        lines = [line.strip() for line in done.stdout.splitlines() if "::$" in line or "Failed to parse" in line]
        report.add(FILE, "compose-spec", "; ".join(lines) or done.stdout.strip() or done.stderr.strip())


def engine(root: Path, report: Report) -> None:
    """The engine's own reading. Docker answers for a plug-in that it does not have, so it is asked first."""
    for command in (["docker", "compose"], ["docker-compose"]):
        found = program(command[0])
        if found and output([found, *command[1:], "version"]).returncode == 0:
            done = output([found, *command[1:], "-f", str(root / FILE), "--profile", "*", "config", "--quiet"])
            if done.returncode != 0:
                report.add(FILE, "docker compose", done.stderr.strip())
            return
    report.skip("docker compose", f"`docker compose config` was not run on {FILE}")


def rules(root: Path, name: str, service: dict, known: facts.Facts, report: Report) -> None:
    image = service.get("image", "")
    pinned = "build" in service or (":" in image and not image.endswith(":latest"))
    report.expect(pinned, FILE, f"{name}'s image is not pinned by tag")
    for port in service.get("ports", []):
        report.expect(str(port).startswith("127.0.0.1:"), FILE, f"{name} is open to the network: {port}")
    for variable in service.get("environment", {}):
        known_name = not variable.startswith("RINGTIDE_") or variable in known.variables
        report.expect(known_name, FILE, f"the worker does not read {variable}")
    build = service.get("build")
    if build:
        text = (root / "infra" / build["context"] / build["dockerfile"]).read_text()
        report.expect(re.search(rf"^FROM \S+ AS {build['target']}$", text, re.M), FILE, f"{name}: no stage {build['target']}")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        report.expect(not source.startswith(".") or (root / "infra" / source).exists(), FILE, f"{name}: {source} does not exist")


def scripts(root: Path, tables: set[str], report: Report) -> None:
    read = facts.function_variables(root)
    for path in sorted((root / "infra/compose").glob("*.sh")):
        file = f"infra/compose/{path.name}"
        done = output(["bash", "-n", str(path)])
        report.expect(done.returncode == 0, file, done.stderr.strip())
        for variable in re.findall(r"RINGTIDE_[A-Z_]+", path.read_text()):
            report.expect(variable in read, file, f"the function does not read {variable}")
    named = re.findall(r"^table=(\S+)$", (root / "infra/compose/setup.sh").read_text(), re.M)
    report.expect(set(named) == tables, "infra/compose/setup.sh", f"makes {named}, and the routes are of {sorted(tables)}")

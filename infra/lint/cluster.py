"""infra/kubernetes: the API's schemas, and what they cannot know."""

from pathlib import Path
from typing import Any

import facts
import settings
import yaml
from findings import Report

FOLDER = "infra/kubernetes"
# The oldest and the newest version that the manifests are for.
VERSIONS = ["1.31", "1.37"]


def check(root: Path, report: Report) -> None:
    documents = {}
    for path in sorted((root / FOLDER).glob("*.yaml")):
        file = f"{FOLDER}/{path.name}"
        try:
            documents[path.name] = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            report.add(file, "own", f"not YAML: {error}")
    if report.wants("kubernetes-validate"):
        schemas(documents, report)
    kustomization(root, documents, report)
    known = facts.read(root)
    deployment(documents["deployment.yaml"], known, report)
    selectors(documents, report)
    settings.check(root, f"{FOLDER}/ringtide.toml", known, report)


def schemas(documents: dict[str, Any], report: Report) -> None:
    try:
        import kubernetes_validate as validator
    except ImportError:
        report.skip("kubernetes-validate", f"{FOLDER} was not validated")
        return
    report.skip("ServiceMonitor's schema", "it belongs to the Prometheus operator; only its selector was checked")
    for name, document in documents.items():
        if document["kind"] in ("Kustomization", "ServiceMonitor"):
            continue
        for version in VERSIONS:
            try:
                validator.validate(document, version, strict=True)
            except validator.ValidationError as error:
                place = ".".join(str(part) for part in error.path)
                report.add(f"{FOLDER}/{name}", "kubernetes-validate", f"{version}: {place}: {error.message}")
            except (validator.InvalidSchemaError, validator.SchemaNotFoundError, validator.VersionNotSupportedError) as error:
                report.add(f"{FOLDER}/{name}", "kubernetes-validate", f"{version}: {error}")


def kustomization(root: Path, documents: dict[str, Any], report: Report) -> None:
    file, listed = f"{FOLDER}/kustomization.yaml", documents["kustomization.yaml"]
    for name in [*listed["resources"], *(f for g in listed["configMapGenerator"] for f in g["files"])]:
        report.expect((root / FOLDER / name).exists(), file, f"{name} does not exist")
    unlisted = set(documents) - set(listed["resources"]) - {"kustomization.yaml", "servicemonitor.yaml"}
    report.expect(not unlisted, file, f"not listed: {', '.join(sorted(unlisted))}")


def deployment(document: dict, known: facts.Facts, report: Report) -> None:
    file, spec = f"{FOLDER}/deployment.yaml", document["spec"]
    pod = spec["template"]["spec"]
    grace = pod.get("terminationGracePeriodSeconds", 30)
    report.expect(grace > known.grace, file, f"killed after {grace} s, and the drain takes {known.drain_seconds} s")
    rolling = spec["strategy"].get("rollingUpdate", {})
    report.expect(rolling.get("maxUnavailable") == 0, file, "an update stops the old pod before the new one is ready")
    security = pod.get("securityContext", {})
    report.expect(security.get("runAsNonRoot") is True, file, "the pod may run as root")
    report.expect(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", file, "the pod has no seccomp profile")
    report.expect(pod.get("automountServiceAccountToken") is False, file, "the pod has a token of the cluster")
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        report.expect(own.get("readOnlyRootFilesystem") is True, file, "the container can write to its root")
        report.expect(own.get("allowPrivilegeEscalation") is False, file, "the container may gain privileges")
        report.expect(own.get("capabilities", {}).get("drop") == ["ALL"], file, "the container keeps capabilities")
        report.expect(container.get("resources", {}).get("limits", {}).get("memory"), file, "the container's memory has no limit")
        ports = [port["containerPort"] for port in container.get("ports", [])]
        report.expect(ports == [known.port], file, f"the container's port is not {known.port}")
        variables = {entry["name"]: entry.get("value") for entry in container["env"]}
        for name in variables:
            report.expect(not name.startswith("RINGTIDE_") or name in known.variables, file, f"the worker does not read {name}")
        listens = variables.get("RINGTIDE_WORKER_LISTEN") == f"0.0.0.0:{known.port}"
        report.expect(listens, file, "probes cannot reach the loopback interface")
        for probe, page in [("startupProbe", "/readyz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]:
            asked = container.get(probe, {}).get("httpGet", {}).get("path")
            report.expect(asked == page and page in known.pages, file, f"{probe} does not ask {page}")


def selectors(documents: dict[str, Any], report: Report) -> None:
    labels = documents["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    places = {
        "deployment.yaml": lambda d: d["spec"]["selector"]["matchLabels"],
        "poddisruptionbudget.yaml": lambda d: d["spec"]["selector"]["matchLabels"],
        "service.yaml": lambda d: d["spec"]["selector"],
        "networkpolicy.yaml": lambda d: d["spec"]["podSelector"]["matchLabels"],
        "servicemonitor.yaml": lambda d: d["spec"]["selector"]["matchLabels"],
    }
    for name, place in places.items():
        report.expect(place(documents[name]).items() <= labels.items(), f"{FOLDER}/{name}", "selects other pods than the worker's")

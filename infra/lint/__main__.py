"""Lints the deployment files that nothing here can run. Usage: PYTHON -B infra/lint [--no-self-test]

Checks infra/worker.yaml, infra/Dockerfile, infra/kubernetes, infra/compose.yaml and infra/systemd with the linters of the
environment that infra/dev/install-sam.sh makes, and against what the sources say: settings, ports, time-outs, metrics. Then
plants mistakes in copies of the files and expects each to be found by the linter that is named with it. Exit code 1 if
anything is found in the files, or if a planted mistake is not. What is skipped because a tool is missing is said on
standard error.
"""

import sys
import time
from pathlib import Path

# Nothing is left beside the sources.
sys.dont_write_bytecode = True

import cluster
import compose
import documents
import image
import planted
import stack
import unit
from findings import Report

CHECKS = [stack.check, image.check, cluster.check, compose.check, unit.check, documents.check]


def lint(root: Path) -> Report:
    """Runs every check on the repository at `root`."""
    report = Report()
    for check in CHECKS:
        check(root, report)
    return report


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    began = time.monotonic()
    report = lint(root)
    for tool, why in sorted(report.skipped.items()):
        print(f"skipped: {tool}: {why}", file=sys.stderr)
    for finding in report.findings:
        print(finding)
    missed = []
    caught = 0
    if "--no-self-test" not in sys.argv[1:]:
        caught, missed = planted.run(root, report.skipped)
        for mistake in missed:
            print(f"a planted mistake was not found by {mistake.tool}: {mistake.what} in {mistake.file}")
    seconds = time.monotonic() - began
    print(f"{len(report.findings)} findings; {caught} planted mistakes found, {len(missed)} missed; {seconds:.0f} s")
    return 1 if report.findings or missed else 0


sys.exit(main())

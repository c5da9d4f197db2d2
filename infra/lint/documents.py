"""The guides that go with these files: their links lead somewhere, and the variables that they name exist."""

import re
from pathlib import Path

import facts
from findings import Report

NAMES = ["choosing", "sizing", "upgrading", "migrating"]


def check(root: Path, report: Report) -> None:
    variables = facts.read(root).variables | facts.function_variables(root)
    for name in NAMES:
        file = f"docs/{name}.md"
        text = (root / file).read_text()
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not target.startswith("http"):
                report.expect((root / "docs" / target).resolve().exists(), file, f"{target} does not exist")
        for variable in set(re.findall(r"RINGTIDE_[A-Z_]+[A-Z]", text)):
            report.expect(variable in variables, file, f"nothing reads {variable}")

"""What checks report."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """Something wrong: in which file, who says so, and what."""

    file: str
    tool: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text} [{self.tool}]"


@dataclass
class Report:
    """Findings, and the tools that are missing with what was not checked for that. With `only`, of that tool alone."""

    only: str | None = None
    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def wants(self, tool: str) -> bool:
        """Whether a linter shall run."""
        return self.only in (None, tool)

    def add(self, file: str, tool: str, text: str) -> None:
        self.findings.append(Finding(file, tool, text))

    def expect(self, holds: object, file: str, text: str) -> None:
        """An assertion of the project's own."""
        if not holds:
            self.add(file, "own", text)

    def skip(self, tool: str, why: str) -> None:
        self.skipped[tool] = why


def program(name: str) -> str | None:
    """Finds a program beside this Python, else on the path."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def output(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end and keeps what it says."""
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)

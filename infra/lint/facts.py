"""What the sources say, so that the deployment files cannot say something else.

Read by pattern from the Rust sources; a pattern that does not match any more is an error and not an empty answer.
"""

import re
from dataclasses import dataclass
from pathlib import Path

# After the drain the worker gives its leases back within this time (RELEASE_TIME in worker/src/worker.rs).
RELEASE = 2


@dataclass(frozen=True)
class Facts:
    """Of the worker, where nothing else is said."""

    drain_seconds: int
    port: int
    variables: frozenset[str]
    settings: dict[str, frozenset[str]]
    pages: frozenset[str]
    metrics: frozenset[str]
    commands: frozenset[str]
    configuration_exit: int

    @property
    def grace(self) -> int:
        """A stop may take this many seconds at least."""
        return self.drain_seconds + RELEASE + 3


class Unreadable(Exception):
    """A source does not look as it is expected to."""


def read(root: Path) -> Facts:
    config = (root / "shared/src/config.rs").read_text()
    raw = (root / "shared/src/config/raw.rs").read_text()
    load = (root / "shared/src/config/load.rs").read_text()
    cli = "".join(path.read_text() for path in [root / "worker/src/cli.rs", *sorted((root / "worker/src/cli").glob("*.rs"))])
    http = (root / "worker/src/http.rs").read_text()
    metrics = (root / "shared/src/metrics.rs").read_text()
    sections = re.findall(r'"(\w+)"', one(r"const SECTIONS[^=]*= \[([^\]]*)\]", load))
    settings = {section: fields(raw, section) for section in sections}
    variables = {f"RINGTIDE_{s}_{f}".upper() for s, names in settings.items() for f in names}
    variables |= set(re.findall(r'(?:env = |try_from_env\()"(RINGTIDE_[A-Z_]+)"', cli))
    commands = re.findall(r"^    (\w+)\(", one(r"(?s)enum Command \{(.*?)\n\}", cli), re.M)
    return Facts(
        drain_seconds=int(one(r"drain_timeout: Duration::from_secs\((\d+)\)", config)),
        port=int(one(r"listen: Some\(\(\[127, 0, 0, 1\], (\d+)\)", config)),
        variables=frozenset(variables),
        settings=settings,
        pages=frozenset(re.findall(r'\.route\("([^"]+)"', http)),
        metrics=frozenset(re.findall(r'= "(ringtide_\w+)"', metrics)),
        commands=frozenset(re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() for name in commands),
        configuration_exit=int(one(r"Exit::Configuration => ExitCode::from\((\d+)\)", cli)),
    )


def function_variables(root: Path) -> frozenset[str]:
    """The variables that the function reads by itself."""
    sources = "".join(path.read_text() for path in sorted((root / "lambda/src").rglob("*.rs")))
    return frozenset(re.findall(r'"(RINGTIDE_[A-Z_]+)"', sources))


def fields(raw: str, section: str) -> frozenset[str]:
    body = one(rf"(?s)struct Raw{section.capitalize()} \{{(.*?)\n\}}", raw)
    return frozenset(re.findall(r"pub\(super\) (\w+):", body)) - {"unknown"}


def one(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise Unreadable(f"nothing in the sources matches {pattern}")
    return match.group(1)

"""infra/Dockerfile and what is sent along with it: hadolint, and what it cannot know."""

import json
import re
import tomllib
from pathlib import Path

import facts
from findings import Report, output, program
from stack import health_check

FILE = "infra/Dockerfile"
IGNORE = "infra/Dockerfile.dockerignore"


def check(root: Path, report: Report) -> None:
    if report.wants("hadolint"):
        linted(root, report)
    text = (root / FILE).read_text()
    known = facts.read(root)
    final(text, known, report)
    bases(root, text, report)
    context(root, text, report)


def linted(root: Path, report: Report) -> None:
    hadolint = program("hadolint")
    if hadolint is None:
        report.skip("hadolint", f"{FILE} was not linted")
        return
    done = output([hadolint, "--no-color", "--format", "json", str(root / FILE)])
    for found in json.loads(done.stdout or "[]"):
        report.add(FILE, "hadolint", f"line {found['line']}: {found['code']} {found['message']}")


def instructions(text: str) -> list[str]:
    """Instructions with their continuation lines joined, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def final(text: str, known: facts.Facts, report: Report) -> None:
    """The stage that is shipped."""
    lines = instructions(text)
    start = max(i for i, line in enumerate(lines) if line.startswith("FROM "))
    stage = lines[start:]
    report.expect("distroless" in stage[0] or "scratch" in stage[0], FILE, "the shipped stage has a shell")
    users = [line.split()[1] for line in stage if line.startswith("USER ")]
    numeric = bool(users) and re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1])
    report.expect(numeric, FILE, "the image's user is not a number other than 0")
    report.expect("STOPSIGNAL SIGTERM" in stage, FILE, "the image is not stopped by SIGTERM")
    report.expect(f"EXPOSE {known.port}" in stage, FILE, f"the image does not expose {known.port}")
    report.expect('CMD ["run"]' in stage and "run" in known.commands, FILE, "the image does not run the worker")
    checks = [line for line in stage if line.startswith("HEALTHCHECK ")]
    command = json.loads(checks[-1].split("CMD ", 1)[1]) if checks else []
    health_check(command, known, report, FILE)
    for line in lines:
        if "cargo build" in line:
            report.expect("--locked" in line and "--release" in line, FILE, "a build that is not --locked --release")


def bases(root: Path, text: str, report: Report) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.M))
    for base in re.findall(r"^FROM (\S+)", text, re.M):
        pinned = base in stages or (":" in base and not base.endswith(":latest"))
        report.expect(pinned, FILE, f"{base} is not pinned by tag")
    channel = tomllib.loads((root / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    report.expect(f"FROM rust:{channel}-" in text, FILE, f"the image's Rust is not {channel}, that of rust-toolchain.toml")
    report.expect(f"RUSTUP_TOOLCHAIN={channel}" in text, FILE, f"RUSTUP_TOOLCHAIN is not {channel}")
    ministack = facts.one(r"version=(\S+)", (root / "infra/dev/install-ministack.sh").read_text())
    report.expect(f"ministack[full]=={ministack}" in text, FILE, f"ministack is not {ministack}, that of the tests")


def context(root: Path, text: str, report: Report) -> None:
    """Cargo reads the manifest of every member, so every member has to be sent along."""
    lines = (root / IGNORE).read_text().splitlines()
    rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    report.expect(rules[0] == "*", IGNORE, "not everything is left out at first, so that the context is large")
    sent = [rule[1:].strip("/") for rule in rules if rule.startswith("!")]
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    for path in ["Cargo.toml", "Cargo.lock", *members]:
        covered = any(path == s or path.startswith(s + "/") for s in sent)
        report.expect(covered, IGNORE, f"{path} is not sent along, and cargo needs it")
    for path in re.findall(r"^COPY (?!--from)(\S+)", text, re.M):
        covered = path == "." or any(path.strip("/") == s or path.startswith(s + "/") for s in sent)
        report.expect(covered, IGNORE, f"{path} is copied and not sent along")
    for path in sent:
        report.expect((root / path).exists(), IGNORE, f"{path} does not exist")

"""infra/systemd: systemd's own reading, and what it cannot know."""

import re
import tempfile
from pathlib import Path

import facts
from findings import Report, output, program

FILE = "infra/systemd/ringtide.service"
SETTINGS = "infra/systemd/ringtide.env"
# systemd's measure, 0 to 100, tenfold: at 20 a service is called OK.
EXPOSURE = 20


def check(root: Path, report: Report) -> None:
    text = (root / FILE).read_text()
    if report.wants("systemd-analyze"):
        verify(text, report)
    known = facts.read(root)
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    stop = int(settings.get("TimeoutStopSec", "90s").removesuffix("s"))
    report.expect(stop > known.grace, FILE, f"killed after {stop} s, and the drain takes {known.drain_seconds} s")
    report.expect(settings.get("DynamicUser") == "yes", FILE, "the service runs as root")
    report.expect(settings.get("ProtectSystem") == "strict", FILE, "the service can write to the system")
    report.expect(settings.get("NoNewPrivileges") == "yes", FILE, "the service may gain privileges")
    report.expect(settings.get("Restart") == "on-failure", FILE, "the service is not started again")
    stays = settings.get("RestartPreventExitStatus") == str(known.configuration_exit)
    report.expect(stays, FILE, "a wrong configuration is tried again and again")
    report.expect("StartLimitBurst" in settings, FILE, "failed starts have no limit")
    for file in (FILE, SETTINGS):
        for name in re.findall(r"^#?(?:Environment=)?(RINGTIDE_[A-Z_]+)=", (root / file).read_text(), re.M):
            report.expect(name in known.variables, file, f"the worker does not read {name}")


def verify(text: str, report: Report) -> None:
    """On a copy whose program exists, since verify looks for it."""
    analyze = program("systemd-analyze")
    if analyze is None:
        report.skip("systemd-analyze", f"{FILE} was not verified")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ringtide.service"
        copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
        said = output([analyze, "verify", "--man=no", str(copy)])
        lines = [line for line in said.stderr.splitlines() if "ringtide.service" in line]
        if said.returncode != 0 or lines:
            report.add(FILE, "systemd-analyze", "; ".join(lines) or said.stderr.strip())
        measured = output([analyze, "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", str(copy)])
        if measured.returncode != 0:
            last = measured.stdout.strip().splitlines()[-1:] or [measured.stderr.strip()]
            report.add(FILE, "systemd-analyze", last[0])

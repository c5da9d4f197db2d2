"""A ringtide.toml that is shipped with a deployment: its settings exist."""

import tomllib
from pathlib import Path

import facts
from findings import Report

# What the environment cannot set, so that the sources' list of sections does not name it.
FREE = {"spaces", "routes"}


def check(root: Path, file: str, known: facts.Facts, report: Report) -> dict:
    """Reads the file and reports unknown settings; the worker itself checks the rest at start."""
    try:
        config = tomllib.loads((root / file).read_text())
    except tomllib.TOMLDecodeError as error:
        report.add(file, "own", f"not TOML: {error}")
        return {}
    for section, values in config.items():
        if section in FREE:
            continue
        report.expect(section in known.settings, file, f"there is no section {section}")
        for name in values:
            report.expect(name in known.settings.get(section, ()), file, f"there is no setting {section}.{name}")
    report.expect(config.get("ring", {}).get("shards"), file, "the ring has no shards")
    spaces = config.get("spaces", {})
    for route in config.get("routes", []):
        report.expect(route.get("space") in spaces, file, f"a route names the key space {route.get('space')}, which is missing")
    return config

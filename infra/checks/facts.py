"""What the code says of itself: settings, metrics, commands of its scripts."""

import re

from stack import ROOT

SHARED = ROOT / "shared" / "src"

# Read by the function itself, beside the fields of the configuration.
OWN_VARIABLES = {"RINGTIDE_CONFIG", "RINGTIDE_CONFIG_TEXT", "RINGTIDE_LOG"}


def variables():
    """Every RINGTIDE_ variable that sets something."""
    raw = (SHARED / "config" / "raw.rs").read_text()
    sections = re.search(r"SECTIONS: \[&str; \d+\] = \[([^\]]+)\]", (SHARED / "config" / "load.rs").read_text())[1]
    names = set(OWN_VARIABLES)
    for section in re.findall(r'"(\w+)"', sections):
        body = re.search(rf"struct Raw{section.capitalize()} \{{(.*?)\n\}}", raw, re.S)[1]
        fields = set(re.findall(r"pub\(super\) (\w+):", body)) - {"unknown"}
        names |= {f"RINGTIDE_{section}_{field}".upper() for field in fields}
    return names


def metrics():
    """Every metric's name."""
    return set(re.findall(r'= "(ringtide_\w+)"', (SHARED / "metrics.rs").read_text()))


def permissions():
    """The commands that a user of readers and invalidators needs, as the protocol's module says."""
    text = (SHARED / "valkey.rs").read_text()
    paragraph = re.search(r"# Permissions\n(.*?)//! #", text, re.S)[1]
    return {name for name in re.findall(r"`([a-z|]+)`", paragraph)}


def script_commands(*names):
    """The commands that scripts call, in lower case."""
    texts = [(SHARED / "valkey" / "scripts" / f"{name}.lua").read_text() for name in names]
    return {found.lower() for text in texts for found in re.findall(r"p?call\('([A-Z]+)'", text)}

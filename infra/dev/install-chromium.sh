#!/usr/bin/env bash
# Installs Chromium and its driver, in which the status page is tested, and promtool, which checks the alert rules, from the
# distribution's packages, where they are missing.
set -euo pipefail

missing() {
    command -v chromium >/dev/null 2>&1 || echo chromium
    command -v chromedriver >/dev/null 2>&1 || echo chromium-driver
    command -v promtool >/dev/null 2>&1 || echo prometheus
}

if [ -z "$(missing)" ]; then
    exit 0
fi

fail() {
    printf 'Chromium, chromedriver or promtool is missing and could not be installed: %s\n' "$1" >&2
    printf 'Install them so that "chromium", "chromedriver" and "promtool" are on the PATH, then run this command again.\n' >&2
    exit 1
}

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || fail "this needs root or sudo"
    as_root="sudo"
fi
command -v apt-get >/dev/null 2>&1 || fail "no apt-get on this machine"

read -ra packages <<<"$(missing | tr '\n' ' ')"
echo "installing ${packages[*]} from the distribution's packages ..." >&2
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || fail "apt-get update failed"

# The packaged Prometheus must not start a server of its own: only its promtool is used.
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
    made=1
fi
status=0
$as_root apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 || status=$?
[ -z "$made" ] || $as_root rm -f "$policy"
[ "$status" -eq 0 ] || fail "apt-get install ${packages[*]} failed"

#!/usr/bin/env bash
# Installs valkey-server from the distribution's packages, where it is missing.
# Debian 13, Ubuntu 24.04 and later carry it; Debian 12 has it in its backports suite, which is read from
# the mirror that this machine already uses.
set -euo pipefail

if command -v valkey-server >/dev/null 2>&1; then
    exit 0
fi

fail() {
    printf 'valkey-server is missing and could not be installed: %s\n' "$1" >&2
    printf 'Install Valkey 7.2 or later so that "valkey-server" is on the PATH, then run this command again.\n' >&2
    exit 1
}

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || fail "this needs root or sudo"
    as_root="sudo"
fi

if command -v brew >/dev/null 2>&1; then
    brew install valkey && exit 0
    fail "brew install valkey failed"
fi
command -v apt-get >/dev/null 2>&1 || fail "no apt-get or brew on this machine"

echo "installing valkey-server from the distribution's packages ..." >&2
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || fail "apt-get update failed"

install() {
    # The packaged service must not start a server of its own: the program starts the servers it needs.
    local policy=/usr/sbin/policy-rc.d made=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod +x "$policy"
        made=1
    fi
    local status=0
    $as_root apt-get install -y -qq --no-install-recommends "$@" >&2 || status=$?
    [ -z "$made" ] || $as_root rm -f "$policy"
    return "$status"
}

if apt-cache policy valkey-server 2>/dev/null | grep -q 'Candidate: [0-9]'; then
    install valkey-server || fail "apt-get install valkey-server failed"
    exit 0
fi

# shellcheck disable=SC1091
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ "$codename" = bookworm ] || fail "this release ($codename) has no valkey-server package"
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' | awk '$1 == "bookworm" { print $2; exit }')
[ -n "$mirror" ] || fail "no configured package source names the suite bookworm"
printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' "$mirror" |
    $as_root tee /etc/apt/sources.list.d/bookworm-backports.sources >/dev/null
$as_root apt-get update -qq || fail "apt-get update with the backports suite failed"
install -t bookworm-backports valkey-server || fail "apt-get install -t bookworm-backports valkey-server failed"

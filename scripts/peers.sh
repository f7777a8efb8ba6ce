#!/usr/bin/env bash
# Installs the programs the tests talk to (Orthanc, DCMTK, Prometheus, shells; node and npm for the language server;
# Chromium with a font for the pages; HAProxy and PostgreSQL, of whatever version, for several replicas) from Debian's
# packages, those that are missing.
# The packages' own services are kept from starting: the tests run their own instances on free ports.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# program:package, or file:package
wanted="Orthanc:orthanc dcmqrscp:dcmtk storescp:dcmtk storescu:dcmtk findscu:dcmtk movescu:dcmtk echoscu:dcmtk
        dcmsend:dcmtk dcmconv:dcmtk dcmftest:dcmtk dcmqridx:dcmtk prometheus:prometheus promtool:prometheus
        haproxy:haproxy /usr/lib/postgresql/*/bin/initdb:postgresql openssl:openssl mkfs.ext4:e2fsprogs losetup:mount
        node:nodejs npm:npm zsh:zsh fish:fish
        chromium:chromium /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core"

missing_packages() {
    local pair
    for pair in $wanted; do
        command -v "${pair%%:*}" >/dev/null || compgen -G "${pair%%:*}" >/dev/null || printf '%s\n' "${pair##*:}"
    done | sort -u | tr '\n' ' '
}

packages=$(missing_packages)
[ -n "$packages" ] || exit 0

say() { printf '%s\n' "$*" >&2; }

if ! command -v apt-get >/dev/null; then
    say "error: the tests need these programs, and there is no apt-get here to install them: $packages"
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then root=(sudo)
else
    say "error: the tests need Debian packages that are missing; run as root: apt-get install $packages"
    exit 1
fi

# Debian's way to say "install, but start nothing": a policy that denies every action (exit status 101).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '"${root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
fi

say "Installing $packages"
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
"${root[@]}" "${apt[@]}" update >&2
# shellcheck disable=SC2086  # one word per package
"${root[@]}" "${apt[@]}" install -y --no-install-recommends $packages >&2

packages=$(missing_packages)
if [ -n "$packages" ]; then
    say "error: still missing after the installation: $packages"
    exit 1
fi

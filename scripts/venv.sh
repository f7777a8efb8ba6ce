#!/usr/bin/env bash
# Makes or refreshes .venv with the project (editable), its pinned dependencies and the development tools.
# Uses $PYTHON if set, else the first Python 3.11 or newer that can make virtual environments; on Debian, where
# that part of Python is a package of its own, it is installed when missing.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Runs a command as root: directly, or through sudo where that asks nothing.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"
    else return 1
    fi
}

suits() {
    command -v "$1" >/dev/null && "$1" - 2>/dev/null <<'PROBE'
import sys
import ensurepip, venv
sys.exit(sys.version_info < (3, 11))
PROBE
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3}; do
        if suits "$candidate"; then printf '%s\n' "$candidate"; return 0; fi
    done
    return 1
}

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    if ! python=$(find_python); then
        [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python 3.11 or newer with its venv module"
        command -v apt-get >/dev/null || die "no Python 3.11 or newer with its venv module found; install one or set PYTHON"
        say "Installing python3-venv"
        as_root apt-get update -q -o DPkg::Lock::Timeout=300 >&2 &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
                -o DPkg::Lock::Timeout=300 python3 python3-venv >&2 ||
            die "could not install python3-venv; run as root: apt-get install python3-venv"
        python=$(find_python) || die "this system's Python is older than 3.11; install a newer one or set PYTHON"
    fi
    say "Creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

# The pip that a Python brings may be too old for dependency groups (25.1) and build constraints (25.3).
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt pip
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt \
    --group dev --editable .

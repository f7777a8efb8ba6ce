#!/usr/bin/env bash
# Makes the secrets of compose.scale.yaml, those that are missing, in the directory `secrets` beside this script: the
# database's password, the ledger's URL that holds it, and the token of router.token. Run it once, before the first start.
#
# The directory is for its owner only. The files can be read by everybody who gets to them: the containers see the files
# themselves, as users that are nobody on this machine.
set -euo pipefail
directory=$(cd "$(dirname "$0")" && pwd)/secrets
mkdir -p "$directory"
chmod 700 "$directory"
cd "$directory"

make_secret() { # NAME VALUE
    if [ -e "$1" ]; then
        echo "kept $directory/$1"
    else
        printf '%s\n' "$2" >"$1.new"
        chmod 444 "$1.new"
        mv "$1.new" "$1"
        echo "made $directory/$1"
    fi
}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

make_secret database-password "$(random)"
make_secret ledger-url "postgresql://dicom_router:$(cat database-password)@database/dicom_router"
make_secret router-token "$(random)"

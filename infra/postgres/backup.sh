#!/usr/bin/env bash
# Back up Postgres databases, each in pg_dump's custom format, and check what was written.
#
#   backup.sh TARGET DATABASE…
#
# TARGET is a folder or gs://…: the dumps go to TARGET/TIME/DATABASE.dump, and TARGET/latest holds TIME once all are
# there. Server and password come from PGHOST, PGPORT, PGUSER and PGPASSWORD or PGPASSFILE. gs:// needs VIM's Python.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: backup.sh TARGET DATABASE..." >&2
    exit 2
fi
target=${1%/}
shift
# Two in one second must not meet in one folder.
when=$(date -u +%Y%m%dT%H%M%SZ)-$(printf '%04x' $RANDOM)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for database in "$@"; do
    pg_dump --format=custom --no-owner --file="$work/$database.dump" --dbname="$database"
    # Reads the whole table of contents: a cut file fails here and not on the day it is needed.
    pg_restore --list "$work/$database.dump" >/dev/null
done
printf '%s\n' "$when" >"$work/latest"

case $target in
gs://*)
    "${PYTHON:-python}" - "$work" "$target" "$when" <<'PY'
import shutil
import sys
from pathlib import Path

from vim_core.storage import io

work, target, when = sys.argv[1:]
for path in sorted(Path(work).glob("*.dump")):
    with path.open("rb") as source, io.open_write(f"{target}/{when}/{path.name}") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
io.write_bytes(f"{target}/latest", f"{when}\n".encode())
PY
    ;;
*)
    mkdir -p "$target"
    # A half copied folder never has the final name, and `latest` changes last.
    part="$target/.$when.part"
    mkdir "$part"
    cp "$work"/*.dump "$part/"
    sync "$part"/*
    mv -T "$part" "$target/$when"
    cp "$work/latest" "$target/.latest.part"
    mv "$target/.latest.part" "$target/latest"
    ;;
esac
echo "backed up $* to $target/$when"

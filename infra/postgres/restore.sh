#!/usr/bin/env bash
# Restore what backup.sh wrote, into databases that exist and are empty.
#
#   restore.sh BACKUP DATABASE…
#
# BACKUP is TARGET/TIME, or TARGET/latest for the newest one; a folder or gs://…. Nothing is restored when any of the
# databases has a table: drop and create it first, and stop MLflow and Dagster meanwhile. Each database comes back as a
# whole or not at all. Variables as for backup.sh.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: restore.sh BACKUP DATABASE..." >&2
    exit 2
fi
backup=${1%/}
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for database in "$@"; do
    count=$(psql --dbname="$database" --no-psqlrc --tuples-only --no-align --command \
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'")
    if [ "$count" != 0 ]; then
        echo "restore.sh: the database $database is not empty ($count tables, views and sequences); nothing was changed." >&2
        echo "Stop what uses it, then: dropdb $database && createdb $database" >&2
        exit 3
    fi
done

case $backup in
gs://*)
    "${PYTHON:-python}" - "$work" "$backup" "$@" <<'PY'
import shutil
import sys
from pathlib import Path

from vim_core.storage import io

work, backup, *databases = sys.argv[1:]
if backup.endswith("/latest"):
    backup = f"{backup.removesuffix('/latest')}/{io.read_bytes(backup).decode().strip()}"
for name in databases:
    with io.open_read(f"{backup}/{name}.dump") as source, Path(work, f"{name}.dump").open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
PY
    ;;
*)
    if [ "$(basename "$backup")" = latest ]; then
        backup=$(dirname "$backup")/$(cat "$backup")
    fi
    for database in "$@"; do
        cp "$backup/$database.dump" "$work/"
    done
    ;;
esac

for database in "$@"; do
    pg_restore --exit-on-error --single-transaction --no-owner --no-privileges --dbname="$database" "$work/$database.dump"
done
echo "restored $* from $backup"

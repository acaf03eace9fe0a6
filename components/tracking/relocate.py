"""MLflow's database in a root that was moved or copied: its absolute paths follow.

MLflow keeps where the files of an experiment and of each run lie as absolute addresses, and would go on writing to the
old place.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

FILES = "mlartifacts"
"""Folder in the root with the files of runs."""
UNUSED = "/mlruns/0"
"""End of the folder that MLflow would make for its own default experiment: below wherever it was started first."""
COLUMNS = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("tags", "value"), ("datasets", "dataset_source"),
    ("logged_models", "artifact_location"), ("logged_model_tags", "tag_value"), ("model_versions", "source"),
    ("model_versions", "storage_location"), ("model_versions", "description"), ("model_version_tags", "value"),
)  # fmt: skip
"""Places of addresses below the root, as URIs or as paths."""


def relocate(database: Path) -> None:
    """Let every address below the root that the database was made in be below the one that it lies in now.

    Does nothing for a database whose files lie elsewhere, as with a tracking address of the user's own.
    """
    new = database.parent.absolute()
    with closing(sqlite3.connect(database)) as connection, connection:
        present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in present:
            return
        known = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        files = f"{new.as_uri()}/{FILES}"
        for (location,) in known:
            if str(location).endswith(UNUSED) and not Path(location).exists() and (files,) in known:
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (files, location)
                )
            old = Path(unquote(urlparse(location or "").path))
            if not str(location).startswith("file:") or old.name != FILES or old.parent == new:
                continue
            for table, column in COLUMNS:
                if table not in present:
                    continue
                for before, after in ((old.parent.as_uri(), new.as_uri()), (str(old.parent), str(new))):
                    connection.execute(
                        f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?) > 0",
                        (f"{before}/", f"{after}/", f"{before}/"),
                    )

"""The local folder for files that must be on a disk although their work folder is in a bucket."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from vim_core.storage import io


def scratch(work: str) -> Path:
    """Return the work folder if it is local, else a folder of this user that is fixed for each work folder."""
    if io.is_local(work):
        return io.local_path(work).absolute()
    # The hash covers the whole address: two roots may have work of the same fingerprint.
    name = hashlib.sha256(work.encode()).hexdigest()[:20]
    return Path(tempfile.gettempdir(), f"vim-{os.getuid()}", name)

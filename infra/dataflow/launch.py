"""Entry point of the Dataflow flex template: starts tokenizing and ends.

The launcher's own flags (project, region, template_location and others) go to Beam as they are. The job leaves its
shards in the work folder below the root; `vimctl run tokenize` with the same settings then finds them finished and
makes the artifact of them. Run it again after a failure: only the missing shards are done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.artifacts import execute
from components.contract import settings
from components.tokenize import component as tokenize
from vim_core.errors import VimError

CONF = Path(__file__).resolve().parents[2] / "pipelines" / "conf"


def main(words: Sequence[str]) -> Any:
    """Start the pipeline of this command line; returns Beam's result, None if all shards are finished.

    Raises:
        VimError: the settings or the root do not allow it.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--preset", required=True, help="a preset, or a YAML file")
    parser.add_argument("--root", required=True, help="artifact root, gs://…")
    parser.add_argument("--overrides", default="", help="settings as key=value, separated by semicolons")
    parser.add_argument("--worker_threads", type=int, default=1, help="threads of each worker process")
    parser.add_argument("--device", default="cpu", help="device of each worker: cpu or cuda")
    arguments, flags = parser.parse_known_args(words)
    overrides = [
        f"run.root={arguments.root}",
        "run.beam_runner=DataflowRunner",
        f"run.threads={arguments.worker_threads}",
        f"run.device={arguments.device}",
        *filter(None, arguments.overrides.split(";")),
    ]
    config = settings.load(arguments.preset, overrides, CONF)
    config.run.beam_options = [*config.run.beam_options, *flags]
    request = execute.prepare("tokenize", config)
    return tokenize.start(config.tokenize, request.inputs, config.run, request.work)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except VimError as error:
        sys.exit(str(error))

"""`vimctl rehearse`: a preset with small sizes, on the device and workers asked for, measured and judged."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from argparse import Namespace

from pipelines import presets
from pipelines.cli import common, rehearsal
from vim_core.storage import io

STEPS = 8
QUIET = {"KINETO_LOG_LEVEL": "5", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Set before torch is imported: its profiler says on standard error that there is no GPU."""


def add_commands(subparsers: common.Subparsers) -> None:
    """Add `vimctl rehearse`."""
    parser = common.subcommand(
        subparsers, "rehearse", run, "run a preset with small sizes and judge what its full size would meet",
        ("rehearse imagenet256_large", "every component, images generated where the preset's are missing"),
        ("rehearse imagenet256_large prior run.workers=2", "one component and what it needs, on two workers"),
        ("rehearse imagenet256_base --cluster my-gke.yaml", "as a job on a cluster"),
    )  # fmt: skip
    parser.add_argument("preset", metavar="PRESET", help="a preset's name or a YAML file")
    parser.add_argument(
        "words", nargs="*", metavar="[COMPONENT] key=value …",
        help="one component with what it needs (default: all), settings by dotted key",
    )  # fmt: skip
    parser.add_argument("--cluster", default="", help="run it as a job there, see `vimctl cluster list`")
    parser.add_argument(
        "--steps", type=common.POSITIVE, default=STEPS, help="steps of each training to time (default: %(default)s)"
    )
    parser.add_argument("--json", default="", metavar="FILE", help="write figures and findings to this file or URI")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all that the rehearsal has made")


def run(arguments: Namespace) -> int:
    """`vimctl rehearse`: 0 where no finding is FAIL, else 1. Raises `ConfigError` for settings that do not fit."""
    from pipelines.orchestration import launch

    if arguments.cluster:
        return submit(arguments)
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    target, overrides = common.split_words(arguments.words)
    config = presets.load(arguments.preset, overrides)
    names = launch.plan(config, target)
    root = tempfile.mkdtemp(prefix=f"vim-rehearsal-{config.preset}-")
    file = arguments.json or io.join(config.run.root, "reports", config.preset, rehearsal.FILE)
    status = 1
    try:
        status = rehearsal.execute(config, names, arguments.steps, root, file)
    finally:
        if status and not arguments.keep:
            common.print_line(f"kept, because it failed: {root}")
        elif arguments.keep:
            common.print_line(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return status


def submit(arguments: Namespace) -> int:
    """Send the rehearsal as a job, follow it, and return its status."""
    from components.contract import settings
    from pipelines.cli import job_request
    from pipelines.jobs import profile, submission
    from pipelines.jobs.api import SUCCEEDED

    cluster = profile.load(arguments.cluster)
    given = Namespace(preset=arguments.preset, words=arguments.words, sweep="", start="", only=False, force=False)
    spec, config = job_request.build_spec(given, cluster)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, rehearse=arguments.steps))
    spec = dataclasses.replace(spec, command="rehearse", settings=settings.to_yaml(config))
    state = submission.submit(cluster, spec, common.print_line)
    if state.status != SUCCEEDED:
        common.print_line(f"{state.job_id} {state.status}: {state.message}")
    return int(state.status != SUCCEEDED)

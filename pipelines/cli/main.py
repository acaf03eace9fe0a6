"""`vimctl`: run a preset or one component, look at settings, reports and user interfaces."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import presets
from pipelines.cli import artifacts, cluster, commands, doctor, infra, submit, sweep
from vim_core.errors import ConfigError, VimError

if TYPE_CHECKING:
    from argparse import ArgumentParser

CONFIG_ERROR, OTHER_ERROR, INTERRUPTED = 2, 1, 130
EXAMPLES = """\
examples:
  vimctl run --preset digits                      the whole pipeline; what exists already is reused
  vimctl run --preset digits prior.dropout=0.2    with another setting: only what it changes runs again
  vimctl run prior --preset digits                one component, after bringing its inputs up to date
  vimctl run prior --preset digits --force        make it again although it exists
  vimctl run --preset digits --from prior         make it and everything that depends on it again
  vimctl config --preset digits                   every setting, resolved
  vimctl report --preset digits --json            the figures of the last run
  vimctl compare digits other/report-folder       two runs side by side, on one page and in the terminal
  vimctl artifacts list                           what was made, how large it is, what still needs it
  vimctl artifacts gc                             what nobody needs any more; --delete removes it
  vimctl sweep run digits                         guidance, temperature, acceptance: table, Pareto plot, the best
  vimctl cluster up --nodes 3                     a Ray cluster on this machine, for `vimctl submit`
  vimctl submit --preset digits --cluster local   the pipeline as a job; the same command attaches to it again
  vimctl status                                   jobs, unfinished work and its owners, what was made last
  vimctl plan --preset imagenet256_large --topology 4x4x4 --mfu 0.4   memory, hours and storage on 64 chips
  vimctl doctor --preset digits --cluster ray     what is missing on this machine, the cluster, the bucket, MLflow
  vimctl infra render --cluster my-gke.yaml --out manifests   a deployment on Kubernetes, one file for each piece
  vimctl ui --preset digits                       MLflow and Dagster in the browser
  vimctl reconstruct cat.jpg --tokenizer DIR --out again   your own pictures through a tokenizer
  vimctl export artifacts/quantize/… --out DIR    a trained model with its card, for others to load
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; returns its exit status: 2 for a config error, 1 for another one, 130 if interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return run(arguments)
    except VimError as error:
        sys.stderr.write(f"vimctl: {' '.join(str(error).split())}\n")
        return CONFIG_ERROR if isinstance(error, ConfigError) else OTHER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("\nvimctl: interrupted; finished work is kept, the same command continues\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left; closing it again at exit would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OTHER_ERROR


def run(arguments: list[str]) -> int:
    """Parse and execute one command."""
    top = parser()
    # argparse fills positional arguments in one go; those after an option come back as unknown.
    parsed, rest = top.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown or (rest and not hasattr(parsed, "words")):
        top.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        parsed.words = [*parsed.words, *rest]
    status: int = parsed.act(parsed)
    return status


def parser() -> ArgumentParser:
    """The command's grammar."""
    top = argparse.ArgumentParser(
        prog="vimctl", description="Train and judge vector-quantized image models, from raw images to a report.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    kinds = top.add_subparsers(metavar="COMMAND", required=True)
    _run(_command(kinds, "run", commands.run, "run a preset's components, reusing what exists"))
    _settings(_command(kinds, "config", commands.config, "print a preset's settings, resolved"))
    _command(kinds, "presets", commands.list_presets, "list the presets")
    shown = _command(kinds, "report", commands.report, "print where the last report lies, or its figures")
    _settings(shown)
    shown.add_argument("--json", action="store_true", help="print results.json")
    _compare(_command(kinds, "compare", commands.compare, "put the reports of several runs beside each other"))
    _tables(_command(kinds, "tables", commands.export_tables, "write image tables for other tools, or read theirs"))
    _models(kinds)
    about = "list, inspect, pin and tidy up what was made"
    artifacts.grammar(_command(kinds, "artifacts", artifacts.show_list, about))
    about = "evaluate a trained preset over a grid of sampling and scoring settings"
    sweep.grammar(_command(kinds, "sweep", sweep.show, about))
    _clusters(kinds)
    _plan(_command(kinds, "plan", commands.plan, "say what a preset needs on so many chips, without touching any"))
    examined = _command(kinds, "doctor", doctor.examine, "look at all that a run needs; say what to do")
    _settings(examined)
    doctor.grammar(examined)
    about = "write what a cluster or a machine needs: manifests for Kubernetes, files for docker compose"
    infra.grammar(_command(kinds, "infra", infra.render_manifests, about))
    _ui(_command(kinds, "ui", commands.ui, "start MLflow and Dagster on 127.0.0.1 and print their addresses"))
    return top


def _command(kinds: argparse._SubParsersAction[ArgumentParser], name: str, act: object, text: str) -> ArgumentParser:
    return commands.subcommand(kinds, name, act, text, EXAMPLES)


def _settings(made: ArgumentParser, words: str = "key=value …") -> None:
    made.add_argument("words", nargs="*", metavar=words, help="settings by dotted key, such as prior.steps=1200")
    made.add_argument(
        "--preset", default=presets.default(), help="a preset's name or a YAML file (default: %(default)s)"
    )


def _run(made: ArgumentParser) -> None:
    _settings(made, "[COMPONENT] key=value …")
    made.add_argument("--only", action="store_true", help="run just COMPONENT; fail where an input is missing")
    made.add_argument("--force", action="store_true", help="run again although the artifact exists")
    made.add_argument(
        "--from", dest="start", default="", metavar="COMPONENT",
        help="make it and all that depends on it again (up to COMPONENT, if one is named); reuse what lies before",
    )  # fmt: skip


def _compare(made: ArgumentParser) -> None:
    made.add_argument(
        "words", nargs="*", metavar="RUN … key=value …",
        help="a folder with results.json, an artifact of report, or a preset's name (settings say of which root)",
    )  # fmt: skip
    made.add_argument("--out", default="compare.html", help="the page to write (default: %(default)s)")


def _tables(made: ArgumentParser) -> None:
    kinds = made.add_subparsers(metavar="export|import", required=True)
    out = kinds.add_parser("export", help="an image table as one .npz (arr_0) or as a folder of PNG")
    out.add_argument("source", help="an artifact's folder with its manifest.json, or a .parquet file")
    out.add_argument("target", help="a new file that ends in .npz, or a new folder")
    out.add_argument("--split", default="", help="only images of this split, such as test or accepted-0.25")
    out.set_defaults(act=commands.export_tables)
    back = kinds.add_parser("import", help="an .npz with arr_0 or a folder of pictures as an image table")
    back.add_argument("source", help="the .npz file or the folder")
    back.add_argument("target", help="the folder for the table's .parquet files")
    back.add_argument("--classes", help="names of class folders in the order of their labels, with commas between")
    back.set_defaults(act=commands.import_tables)


def _models(kinds: argparse._SubParsersAction[ArgumentParser]) -> None:
    """The commands on models apart from any preset."""
    made = _command(kinds, "encode", commands.encode, "print the codes of pictures, or write them as a code table")
    _pictures(made)
    made.add_argument("--out", default="", help="Parquet file for a code table; without it one JSON line a picture")
    made = _command(kinds, "reconstruct", commands.reconstruct, "send pictures through a tokenizer and back, as PNG")
    _pictures(made)
    made.add_argument("--out", required=True, help="folder for the PNG files")
    made.add_argument("--side-by-side", action="store_true", help="each picture on the left of its reconstruction")
    made = _command(kinds, "export", commands.export, "write a tokenizer or prior with config and model card")
    made.add_argument("artifact", help="folder of a quantize or prior artifact, path or URI")
    made.add_argument("--out", required=True, help="folder to write to, path or URI")
    made.add_argument("--license", default="", help="what the card says of the weights' licence")
    made = _command(kinds, "import", commands.bring_in, "make a tokenizer of an enhancing-transformers checkpoint")
    made.add_argument("checkpoint", help="stage-1 checkpoint file, path or URI")
    made.add_argument("--out", required=True, help="folder to write to, path or URI")
    made.add_argument("--head-dim", type=int, default=0, help="width of an attention head (default: theirs, 64)")


def _clusters(kinds: argparse._SubParsersAction[ArgumentParser]) -> None:
    """The commands on clusters and their jobs."""
    about = "start a cluster on this machine, list those that are known"
    cluster.grammar(_command(kinds, "cluster", cluster.show, about))
    jobs = submit
    jobs.submit_grammar(_command(kinds, "submit", jobs.submit, "run a preset, a component or a sweep on a cluster"))
    jobs.status_grammar(_command(kinds, "status", jobs.status, "say what runs, what is unfinished, what was made last"))
    jobs.logs_grammar(_command(kinds, "logs", jobs.logs, "print the output of a job on a cluster"))
    jobs.cancel_grammar(_command(kinds, "cancel", jobs.cancel, "stop a job on a cluster"))
    hidden = kinds.add_parser("job", description="Run the spec of a job; clusters do this.")
    hidden.set_defaults(act=jobs.job)
    jobs.job_grammar(hidden)


def _pictures(made: ArgumentParser) -> None:
    made.add_argument("images", nargs="+", metavar="IMG", help="pictures of any size, paths or URIs")
    made.add_argument("--tokenizer", required=True, help="folder of a quantize artifact or an exported tokenizer")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")


def _plan(made: ArgumentParser) -> None:
    from pipelines.cli import plan

    _settings(made)
    plan.options(made)


def _ui(made: ArgumentParser) -> None:
    _settings(made)
    made.add_argument("--root", help="the artifact root, short for run.root=…")
    made.add_argument("--cluster", default="", help="whose Ray dashboard to link (default: the local one, if it runs)")
    made.add_argument("--mlflow-port", type=int, default=5000, help="default: %(default)s, or a free one if taken")
    made.add_argument("--dagster-port", type=int, default=3000, help="default: %(default)s, or a free one if taken")

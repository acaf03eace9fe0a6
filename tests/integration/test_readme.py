"""Commands of the README files: every one runs, with `smoke` in place of `digits`; make's targets are those of CI."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import SmokeRun
from tests.support.common import REPOSITORY, manifests, results, vimctl

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SERVERS = ("vimctl ui", "dagster dev")
"""Commands that serve until they are stopped; tests/cluster/test_ui.py starts them."""

ON_CLUSTERS = ("cluster ", "submit ", "status ", "logs ")
"""Begin the commands that need a cluster; tests/cluster/test_submit.py runs them, one after the other."""

OWN_DATA = "run --preset PICTURES.yaml"
"""What `vimctl init` wrote is run by tests/integration/test_init.py."""

CHANGE = "run --preset digits prior.dropout=0.2"
"""Another setting of one component: what it and its followers make is made again, nothing else."""


PAGES = ("README.md", "pipelines/README.md", "pipelines/conf/README.md", "tests/README.md", "CONTRIBUTING.md")


def commands() -> list[str]:
    """Every line of the pages' console blocks, once."""
    blocks = [block for page in PAGES for block in CONSOLE.findall((REPOSITORY / page).read_text())]
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines() if line.strip()))


def short() -> list[str]:
    """The `vimctl` commands that end by themselves, without the path of the command."""
    return [line for line in _words() if not line.startswith(ON_CLUSTERS) and line != OWN_DATA]


def on_clusters() -> list[str]:
    """Those that need a cluster, in the order of the pages."""
    lines = [line for line in _words() if line.startswith(ON_CLUSTERS)]
    return sorted(lines, key=lambda line: line == "cluster down")


def _words() -> list[str]:
    lines = [line for line in commands() if "vimctl" in line and not any(server in line for server in SERVERS)]
    return [line.split("vimctl ", 1)[1] for line in lines]


def test_every_command_is_of_a_kind_that_something_runs() -> None:
    assert CHANGE in short()
    assert OWN_DATA in _words()
    for line in commands():
        known = line.startswith("make ") or "vimctl " in line or any(server in line for server in SERVERS)
        assert known, f"README shows {line!r} and nothing runs it"


def test_make_targets_are_run_by_ci() -> None:
    run_by_ci = (REPOSITORY / ".ci" / "run").read_text()
    for line in commands():
        if line.startswith("make "):
            assert re.search(rf"^(timed|again) {line.split()[1]}\b", run_by_ci, re.MULTILINE), f"CI never runs {line!r}"


@pytest.fixture(scope="module")
def copied(smoke_run: SmokeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the smoke run's root: these commands retire and replace artifacts that other tests look at."""
    root = tmp_path_factory.mktemp("readme") / "root"
    shutil.copytree(smoke_run.root, root)
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(root / "PICTURE.jpg")
    for name in ("cats", "dogs"):
        (root / "pictures" / name).mkdir(parents=True)
        for index in range(8):
            picture.rotate(90 * index).resize((32 + index, 32)).save(root / "pictures" / name / f"{name}-{index}.png")
    return root


def concrete(line: str, root: Path) -> list[str]:
    """The command with its placeholders filled: files of the smoke run, outputs beside them."""
    line = re.sub(r"(--preset|compare|sweep \w+) digits", r"\1 smoke", line)
    for component in ("quantize", "sample"):
        made = sorted(manifest.parent for manifest in (root / component).glob("*/manifest.json"))
        line = line.replace(f"artifacts/{component}/FINGERPRINT", str(made[0]))
    (prior, *_) = sorted(manifest.parent.name for manifest in (root / "prior").glob("*/manifest.json"))
    line = line.replace("prior/FINGERPRINT", f"prior/{prior}")
    line = line.replace("OTHER-RUN", f"{root / 'reports' / 'smoke'} --out {root / 'compare.html'}")
    line = line.replace("init PICTURES", f"init {root / 'pictures'} --out {root / 'PICTURES.yaml'}")
    own = {"PICTURE.jpg", "samples.npz", "imported", "again", "my-tokenizer"}
    return [str(root / word) if word in own else word for word in shlex.split(line)]


@pytest.mark.slow
@pytest.mark.parametrize("line", short())
def test_command_runs(copied: Path, line: str) -> None:
    finished = vimctl(*concrete(line, copied), root=copied)
    assert finished.text.strip()
    if line == CHANGE:
        assert_only_what_follows_the_prior_ran(copied)


def assert_only_what_follows_the_prior_ran(root: Path) -> None:
    reused = results(root)["reused"]
    again = {name for name, was_reused in reused.items() if not was_reused}
    assert again - {"report"} == {"prior", "sample", "select", "score", "tradeoff", "probe"}
    assert len(manifests(root, "prior")) == 2
    assert len(manifests(root, "quantize")) == 1


@pytest.mark.slow
def test_the_lines_of_python_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader would: in the folder with the picture and `artifacts`, after the export above."""
    (lines,) = PYTHON.findall((REPOSITORY / "README.md").read_text())
    monkeypatch.chdir(copied)
    (copied / "artifacts").symlink_to(copied)
    exec(compile(lines.replace('"digits"', '"smoke"'), "README.md", "exec"), {})
    for name in ("again.png", "three.png", "seven.png"):
        with Image.open(copied / name) as picture:
            assert picture.size == (32, 32)
    assert (copied / "trained" / "model.safetensors").is_file()
    assert (copied / "probed" / "accuracy.json").is_file()


@pytest.mark.slow
def test_the_notebook_of_vim_core_runs(smoke_run: SmokeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of each training on a folder of two classes; the classifier is the smoke run's."""
    train, use = PYTHON.findall((REPOSITORY / "vim_core" / "README.md").read_text())
    assert len(train.splitlines()) <= 40
    picture = Image.linear_gradient("L").convert("RGB")
    for name in ("PICTURE.jpg", "OTHER.jpg"):
        picture.save(tmp_path / name)
    for index in range(24):
        path = tmp_path / "PICTURES" / ("cats", "dogs")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.rotate(15 * index).save(path)
    (classifier,) = (manifest.parent for manifest in (smoke_run.root / "classify").glob("*/manifest.json"))
    (weights,) = classifier.rglob("model.safetensors")
    (tmp_path / "classifier").symlink_to(weights.parent)
    monkeypatch.chdir(tmp_path)
    assert "steps, stack = 600," in train
    exec(compile(train.replace("= 600,", "= 3,").replace("threads=0", "threads=1"), "vim_core/README.md", "exec"), {})
    exec(compile(use, "vim_core/README.md", "exec"), {})
    for name in ("cats.png", "dogs.png", "drawn-0.png", "drawn-1.png"):
        with Image.open(name) as drawn:
            assert drawn.size == (64, 64)


def test_links_and_paths_on_the_pages_lead_somewhere() -> None:
    for page in (
        REPOSITORY / name for name in (*PAGES, "components/README.md", "vim_core/README.md", "infra/README.md")
    ):
        text = page.read_text()
        links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text)
        paths = re.findall(r"`((?:vim_core|components|pipelines|tests|infra)/[\w/.-]+)`", text)
        broken = [link for link in links if not (page.parent / link).exists()]
        assert not broken + [path for path in paths if not (REPOSITORY / path).exists()], page


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 130

"""Bad input gets one clear line, and nothing half-written is taken for finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.common import vimctl


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["ingest", "ingest.source=/nowhere/at/all"], ["/nowhere/at/all"]),
        (["prior.dropot=0.2"], ["prior.dropot", "prior.dropout"]),
        (["prior.steps=many"], ["prior.steps", "many"]),
        # A folder below a file cannot be made by anyone, not even by root.
        (["run.root={file}/root"], ["{file}"]),
        (["--preset", "smok"], ["smok", "smoke"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(words: list[str], named: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    words, named = ([each.format(file=tmp_path / "file") for each in texts] for texts in (words, named))
    root = tmp_path / "root"
    finished = vimctl("run", "--preset", "smoke", "run.tracking_uri=off", *words, root=root, check=False)
    assert finished.code != 0
    assert "Traceback" not in finished.text
    lines = [line for line in finished.err.splitlines() if all(word in line for word in named)]
    assert len(lines) == 1, f"no single line with {named} in:\n{finished.text}"
    assert list(root.glob("*/*/manifest.json")) == list(root.glob("*/*/data-*")) == []
    assert (tmp_path / "file").read_text() == "in the way"

"""`vimctl encode`, `reconstruct`, `export` and `import` from the outside: lines, files, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.cli import main as cli
from tests.unit.components.exchange.test_export import tokenizer as artifact
from tests.unit.vim_core.weights.test_enhancing_transformers import HEAD, NARROW, Theirs, checkpoint
from vim_core.data.code_tables import CodeTable
from vim_core.data.images import decode, encode_png
from vim_core.pretrained import Tokenizer

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """An artifact of a tiny tokenizer."""
    return artifact(tmp_path).folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Six pictures, more than the tokenizer encodes at once."""
    files = [tmp_path / f"picture-{i}.png" for i in range(6)]
    for i, file in enumerate(files):
        pixels = np.random.default_rng(i).integers(0, 256, (9 + i, 12, 3), dtype=np.uint8)
        file.write_bytes(encode_png(pixels))
    return [str(file) for file in files]


def test_encode_says_the_codes_of_each_picture(folder: str, pictures: list[str], capsys: Capture) -> None:
    assert cli.main(["encode", *pictures, "--tokenizer", folder]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tokenizer = Tokenizer.from_pretrained(folder)
    assert [line["image"] for line in lines] == pictures
    assert [line["codes"] for line in lines] == tokenizer.encode(tokenizer.read(*pictures)).tolist()


def test_the_limit_of_pixels_is_the_users(folder: str, pictures: list[str], tmp_path: Path, capsys: Capture) -> None:
    """The first picture has 9 x 12 pixels."""
    for words in (
        ["encode", pictures[0], "--tokenizer", folder],
        ["reconstruct", pictures[0], "--tokenizer", folder, "--out", str(tmp_path / "again")],
        ["tables", "import", str(Path(pictures[0]).parent), str(tmp_path / "table")],
    ):
        assert cli.main([*words, "--max-pixels", "100"]) != 0
        assert "picture-0.png: 12x9 is more than the 100 pixels allowed" in capsys.readouterr().err


def test_encode_writes_a_code_table(folder: str, pictures: list[str], tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "codes.parquet")
    assert cli.main(["encode", *pictures, "--tokenizer", folder, "--out", out]) == 0
    assert "codes of 6 pictures, 2 x 2 each" in capsys.readouterr().out
    table, tokenizer = CodeTable([out], str(tmp_path / "cache")), Tokenizer.from_pretrained(folder)
    table.check(tokenizer.digest, (2, 2), 16)
    assert list(table.keys) == pictures
    assert table.codes.tolist() == tokenizer.encode(tokenizer.read(*pictures)).tolist()
    assert set(table.labels) == {-1}


@pytest.mark.parametrize("beside", [False, True])
def test_reconstruct_writes_png_files(
    folder: str, pictures: list[str], tmp_path: Path, capsys: Capture, beside: bool
) -> None:
    out, tokenizer = tmp_path / "again", Tokenizer.from_pretrained(folder)
    words = ["reconstruct", *pictures, "--tokenizer", folder, "--out", str(out)]
    assert cli.main(words + ["--side-by-side"] * beside) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(": PSNR " in line for line in lines)
    images = tokenizer.read(*pictures)
    decoded = tokenizer.decode(tokenizer.encode(images))
    for i, picture in enumerate(pictures):
        written = torch.from_numpy(decode((out / Path(picture).name).read_bytes())).movedim(2, 0) / 255
        assert written.shape == (3, 8, 20 if beside else 8)
        torch.testing.assert_close(written[:, :, -8:], decoded[i], atol=0.5 / 255 + 1e-6, rtol=0)
        if beside:
            assert torch.equal(written[:, :, :8], images[i])


def test_export_and_import_give_folders_that_encode(
    folder: str, pictures: list[str], tmp_path: Path, capsys: Capture
) -> None:
    out = str(tmp_path / "exported")
    assert cli.main(["export", folder, "--out", out, "--license", "CC0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("README.md")
    torch.manual_seed(0)
    file = checkpoint(tmp_path / "last.ckpt", Theirs(NARROW, NARROW))
    theirs = str(tmp_path / "theirs")
    assert cli.main(["import", file, "--out", theirs, "--head-dim", str(HEAD)]) == 0
    assert "tokenizer of 12 x 12 pixels, 2 and 2 blocks, 24 codes" in capsys.readouterr().out
    for exported, tokens in ((out, 4), (theirs, 9)):
        assert cli.main(["encode", pictures[0], "--tokenizer", exported]) == 0
        assert len(json.loads(capsys.readouterr().out)["codes"]) == tokens


def test_errors_name_the_picture_or_the_weights_in_one_line(
    folder: str, pictures: list[str], tmp_path: Path, capsys: Capture
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    words = ["--tokenizer", folder, "--out", str(tmp_path / "o")]
    for images, status, message in (
        ([str(broken)], 1, "broken.jpg: not an image"),
        ([str(tmp_path / "none.png")], 1, "none.png: no such file"),
        ([pictures[0], pictures[0]], 2, "picture-0.png: is the name of two pictures"),
    ):
        assert cli.main(["reconstruct", *images, *words]) == status
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert cli.main(["encode", pictures[0], "--tokenizer", str(tmp_path)]) == 1
    assert "no manifest.json lies there; give a folder or URI, COMPONENT/PREFIX" in capsys.readouterr().err
    weights = Path(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    assert cli.main(["encode", pictures[0], "--tokenizer", folder]) == 1
    assert "it was changed or cut off" in capsys.readouterr().err

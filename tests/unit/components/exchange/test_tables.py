"""Image tables out and in again: npz as numpy reads it, folders of PNG as Pillow does."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.artifacts import store
from components.exchange import tables as exchange
from pipelines.cli import main as cli
from tests.support.synthetic import artifact, pictures, rows
from vim_core.data.image_tables import ImageTable, write_images
from vim_core.data.images import decode
from vim_core.errors import DataError


def table(folder: Path, count: int = 7) -> list[str]:
    """Two files of images of three classes, the last image without one."""
    keys, labels = [f"a/{i:03d}" for i in range(count)], [*(i % 3 for i in range(count - 1)), -1]
    made = rows(keys, labels, pictures(count, 0))
    uris = [str(folder / f"{part}.parquet") for part in (0, 1)]
    write_images(uris[0], made[:4])
    write_images(uris[1], made[4:])
    return uris


def test_an_npz_holds_the_pixels_in_order_and_comes_back(tmp_path: Path) -> None:
    target = str(tmp_path / "out" / "batch.npz")
    assert exchange.export_table(table(tmp_path), target) == 7
    with np.load(target) as file:
        assert file.files == ["arr_0"]
        np.testing.assert_array_equal(file["arr_0"], pictures(7, 0))
    again = ImageTable(exchange.import_table(target, str(tmp_path / "again")))
    assert again.keys[-1] == "image-00000006"
    assert set(again.labels.tolist()) == {-1}
    np.testing.assert_array_equal(np.stack([decode(row.image) for row in again]), pictures(7, 0))


def test_a_folder_holds_png_by_class_and_comes_back(tmp_path: Path) -> None:
    target, classes = tmp_path / "pictures", ["ant", "bee/2", "cat"]
    assert exchange.export_table(table(tmp_path), str(target), classes) == 7
    found = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.png"))
    assert len(found) == 7
    assert sum(path.startswith("bee_2-") for path in found) == 2
    assert sum("/" not in path for path in found) == 1
    ant = next(target.glob("ant/a_000*.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(ant)), pictures(7, 0)[0])
    again = ImageTable(exchange.import_table(str(target), str(tmp_path / "again"), classes))
    assert sorted(again.labels.tolist()) == [-1, 0, 0, 1, 1, 2, 2]
    pixels = {decode(row.image).tobytes(): row.label for row in again}
    assert [pixels[image.tobytes()] for image in pictures(7, 0)] == [0, 1, 2, 0, 1, 2, -1]


def test_large_tables_come_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHARD", 3)
    target = str(tmp_path / "batch.npz")
    exchange.export_table(table(tmp_path), target)
    made = exchange.import_table(target, str(tmp_path / "again"))
    assert [len(ImageTable([uri])) for uri in made] == [3, 3, 1]


def test_an_npz_is_written_in_pieces(tmp_path: Path) -> None:
    """400 images of 128 x 128 are 19.7 MB of pixels; what is held at once is a sixth of it."""
    image = np.zeros((128, 128, 3), np.uint8)
    write_images(str(tmp_path / "t.parquet"), rows([f"{i:04d}" for i in range(400)], [0] * 400, [image] * 400))  # type: ignore[arg-type]
    uris = [str(tmp_path / "t.parquet")]
    exchange.export_table(uris, str(tmp_path / "warm.npz"))
    tracemalloc.start()
    exchange.export_table(uris, str(tmp_path / "batch.npz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 128 * 128 * 3 / 2
    with np.load(tmp_path / "batch.npz") as file:
        assert file["arr_0"].shape == (400, 128, 128, 3)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    mixed = [str(tmp_path / "mixed.parquet")]
    write_images(mixed[0], [*rows(["a"], [0], pictures(1, 0)), *rows(["b"], [0], pictures(1, 0)[:, :8])])
    with pytest.raises(DataError, match=r"images of \(8, 16, 3\) and \(16, 16, 3\) in one npz"):
        exchange.export_table(mixed, str(tmp_path / "x.npz"))
    with pytest.raises(DataError, match="no images there"):
        exchange.import_table(str(tmp_path / "nothing"), str(tmp_path / "again"))
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        exchange.import_table(str(tmp_path / "none.npz"), str(tmp_path / "again"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "note.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text/note\.png: not an image"):
        exchange.import_table(str(tmp_path / "text"), str(tmp_path / "again"))


def test_the_files_of_an_artifact_by_split(tmp_path: Path) -> None:
    made = artifact(tmp_path, "select", {
        f"images/{name}-00000-of-00001.parquet": lambda uri: write_images(uri, rows(["a"], [0], pictures(1, 0)))
        for name in ("accepted-1.0", "accepted-0.25")
    })  # fmt: skip
    (Path(made.folder) / "manifest.json").write_bytes(store.dump(made.manifest))
    assert len(exchange.table_files(made.folder)) == 2
    (one,) = exchange.table_files(made.folder, "accepted-0.25")
    assert exchange.table_files(one) == [one]
    with pytest.raises(DataError, match="no images of split test"):
        exchange.table_files(made.folder, "test")
    with pytest.raises(DataError, match=r"no manifest\.json"):
        exchange.table_files(str(tmp_path))


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, batch = table(tmp_path)[0], str(tmp_path / "batch.npz")
    assert cli.main(["tables", "export", source, batch]) == 0
    assert cli.main(["tables", "import", batch, str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"4 images in {batch}", str(tmp_path / "again" / "images-00000.parquet")]
    assert len(ImageTable(said[1:])) == 4
    assert cli.main(["tables", "import", str(tmp_path / "none.npz"), str(tmp_path / "x")]) == 1
    assert "no such file" in capsys.readouterr().err

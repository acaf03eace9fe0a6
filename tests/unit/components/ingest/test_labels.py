"""Class lists and ground-truth files in every form that ImageNet has them in."""

from __future__ import annotations

import io as memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.ingest.labels import label_resolver, read_classes, read_truth
from tests.support.layouts import tar
from vim_core.errors import DataError


def text(folder: Path, content: str | bytes, name: str = "file.txt") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def meta(wnids: list[str]) -> bytes:
    """`meta.mat` as the development kit has it: leaves numbered in its own order, then inner nodes."""
    from scipy.io import savemat

    kind = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    rows = np.zeros(len(wnids) + 1, dtype=kind)
    for index, wnid in enumerate([*wnids, "n00001740"]):
        rows[index] = (index + 1, wnid, f"name of {wnid}", 5 if wnid == "n00001740" else 0)
    stream = memory.BytesIO()
    savemat(stream, {"synsets": rows})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "ids", "names"),
    [
        ("n02 two, second\nn01 one\n", ("n02", "n01"), ("two, second", "one")),
        ("n02\n\nn01\n", ("n02", "n01"), ("n02", "n01")),
        ("\ufeffcat\tthe cat\ndog\tthe dog\n", ("cat", "dog"), ("the cat", "the dog")),
    ],
)
def test_a_class_list_is_in_the_order_of_its_lines(tmp_path: Path, content: str, ids: Any, names: Any) -> None:
    found = read_classes(text(tmp_path, content))
    assert (found.ids, found.names, found.numbers) == (ids, names, {})


def test_a_class_list_may_tell_ilsvrcs_numbers(tmp_path: Path) -> None:
    found = read_classes(text(tmp_path, "2 n01 one\n1 n02 two\n"))
    assert (found.ids, found.names, found.numbers) == (("n01", "n02"), ("one", "two"), {2: "n01", 1: "n02"})


def test_the_development_kit_gives_classes_by_sorted_wnid(tmp_path: Path) -> None:
    data = meta(["n03", "n01", "n02"])
    kit = [("kit/data/meta.mat", data), ("kit/data/ILSVRC2012_validation_ground_truth.txt", b"3\n1\n")]
    archive = tar(tmp_path / "ILSVRC2012_devkit_t12.tar", kit)
    for uri in (text(tmp_path, data, "meta.mat"), str(archive)):
        found = read_classes(uri)
        assert found.ids == ("n01", "n02", "n03")
        assert found.names[0] == "name of n01"
        assert found.numbers == {1: "n03", 2: "n01", 3: "n02"}
    resolve = label_resolver(found, read_truth(str(archive)))
    assert resolve("ILSVRC2012_val_00000001") == ("n02", -1, "")
    assert resolve("ILSVRC2012_val_00000002") == ("n03", -1, "")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("n05\nn06\n", ("n06", -1, "")),
        ("ILSVRC2012_val_00000002.JPEG 17\nother.JPEG 3\n", ("", 17, "")),
        ("ImageId,PredictionString\nILSVRC2012_val_00000002,n06 1 2 3 4 n06 5 6 7 8\n", ("n06", -1, "")),
        ("x.JPEG\tn01\t0\t0\nILSVRC2012_val_00000002.JPEG\tn06\t0\t0\n", ("n06", -1, "")),
        ("n05\n", ("", -1, "not in ingest.val_labels")),
        ("x.JPEG n05\n", ("", -1, "not in ingest.val_labels")),
    ],
)
def test_ground_truth_by_number_or_name(tmp_path: Path, content: str, expected: Any) -> None:
    assert label_resolver(None, read_truth(text(tmp_path, content)))("ILSVRC2012_val_00000002") == expected


def test_ilsvrcs_own_numbers_are_no_labels(tmp_path: Path) -> None:
    truth = read_truth(text(tmp_path, "490\n"))
    for classes in (None, read_classes(text(tmp_path, "n01 one\n", "classes.txt"))):
        with pytest.raises(DataError, match=r"names class 490 by ILSVRC's own number.* give meta\.mat"):
            label_resolver(classes, truth)("ILSVRC2012_val_00000001")


def test_unusable_files_are_refused_by_setting_and_name(tmp_path: Path) -> None:
    for content, message in (("n01 one\nn01 again\n", "each once"), ("", "expected one class a line")):
        with pytest.raises(DataError, match=rf"ingest\.class_list=.*{message}"):
            read_classes(text(tmp_path, content, f"{len(content)}.txt"))
    with pytest.raises(DataError, match=r"ingest\.class_list=.*none\.txt: cannot be read"):
        read_classes(str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match=r"is not ILSVRC's meta\.mat"):
        read_classes(text(tmp_path, b"no matlab file at all", "meta.mat"))
    with pytest.raises(DataError, match=r"ingest\.val_labels=.*is empty"):
        read_truth(text(tmp_path, "\n", "empty.txt"))
    with pytest.raises(DataError, match=r"has no meta\.mat in it"):
        read_classes(str(tar(tmp_path / "kit.tar", [("a", b"b")])))

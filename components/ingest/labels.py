"""Class lists (wnids and names) and ground-truth files of held-out images, in the forms that ImageNet has them in."""

from __future__ import annotations

import hashlib
import io as memory
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from components.ingest.locator import UNKNOWN
from vim_core.errors import DataError
from vim_core.storage import io

ARCHIVES = (".tar.gz", ".tgz", ".tar")
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
"""Names inside the development kit of ILSVRC."""

NUMBERED = re.compile(r"_(\d{8})$")


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their labels: ids (wnids), names for people, ILSVRC's own numbers where they are told."""

    ids: tuple[str, ...]
    names: tuple[str, ...]
    numbers: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """The class of held-out images: by the stem of their name, or by the number at its end."""

    by_stem: dict[str, str]
    by_number: tuple[str, ...] = ()

    def of(self, stem: str) -> str | None:
        """What the file says of an image: a wnid or a number; None where it does not name it."""
        number = NUMBERED.search(stem)
        if self.by_number and number and 0 < int(number[1]) <= len(self.by_number):
            return self.by_number[int(number[1]) - 1]
        return self.by_stem.get(stem)


def digest_of(uri: str, setting: str) -> str:
    """sha256 of a file that a setting names. Raises `DataError` where it cannot be read."""
    return hashlib.sha256(_read(uri, setting)).hexdigest()


@lru_cache(maxsize=4)
def read_classes(uri: str) -> ClassList:
    """A class list: a text file, `meta.mat` of ILSVRC's development kit, or the kit's archive itself.

    The text has one class a line in the order of the labels, `wnid name`, with ILSVRC's number of it before it where
    a ground-truth file of such numbers is to be read. `meta.mat` gives the labels by sorted wnid.

    Raises:
        DataError: the file cannot be read, or is none of these.
    """
    setting = "ingest.class_list"
    data = _member(_read(uri, setting), META, uri) if uri.endswith(ARCHIVES) else _read(uri, setting)
    if uri.endswith((".mat", *ARCHIVES)):
        return _from_meta(data, uri)
    rows = [_class_of(line) for line in _text(data, uri, setting).splitlines() if line.strip()]
    ids = tuple(row[1] for row in rows)
    if not ids or len(set(ids)) != len(ids):
        raise DataError(f"{setting}={uri}: expected one class a line, each once: `wnid name` or `number wnid name`")
    return ClassList(ids, tuple(row[2] for row in rows), {row[0]: row[1] for row in rows if row[0]})


@lru_cache(maxsize=4)
def read_truth(uri: str) -> Truth:
    """A ground-truth file: one class a line in the order of the images' numbers, or `image class` a line.

    Classes are wnids or numbers: alone in a line ILSVRC's own (1 to 1,000), beside a name labels (0 to 999). A first
    line `ImageId,…` is a heading. The development kit's archive is read as its ground-truth file.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    setting = "ingest.val_labels"
    data = _read(uri, setting)
    text = _text(_member(data, TRUTH, uri) if uri.endswith(ARCHIVES) else data, uri, setting)
    lines = [re.split(r"[,\s]+", line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{setting}={uri}: is empty; expected a class or an image and its class a line")
    if len(lines[0]) == 1:
        return Truth({}, tuple(line[0] for line in lines))
    return Truth({stem_of(line[0]): line[1] for line in lines if line[0] != "ImageId"})


def resolver(classes: ClassList | None, truth: Truth) -> Callable[[str], tuple[str, int, str]]:
    """A function from an image's stem to (class name, label, why it has none)."""

    def resolve(stem: str) -> tuple[str, int, str]:
        said = truth.of(stem)
        if said is None:
            return "", UNKNOWN, "not in ingest.val_labels"
        if not said.isdigit():
            return said, UNKNOWN, ""
        if not truth.by_number:
            return "", int(said), ""
        if classes is None or int(said) not in classes.numbers:
            raise DataError(
                f"ingest.val_labels names class {said} by ILSVRC's own number, which is no label: give meta.mat, the "
                "development kit, or lines `number wnid name` as ingest.class_list"
            )
        return classes.numbers[int(said)], UNKNOWN, ""

    return resolve


def stem_of(path: str) -> str:
    """The name of a file without folder and suffix."""
    name = path.rsplit("/", 1)[-1]
    return name.rpartition(".")[0] or name


def _class_of(line: str) -> tuple[int, str, str]:
    number = 0
    first, _, rest = line.strip().replace("\t", " ").partition(" ")
    if first.isdigit() and rest.strip():
        number = int(first)
        first, _, rest = rest.strip().partition(" ")
    return number, first, rest.strip() or first


def _from_meta(data: bytes, uri: str) -> ClassList:
    from scipy.io import loadmat

    try:
        found: Any = loadmat(memory.BytesIO(data), squeeze_me=True)["synsets"]
        leaves = found[found["num_children"] == 0]
        rows = sorted((str(s["WNID"]), str(s["words"]), int(s["ILSVRC2012_ID"])) for s in leaves)
    except (KeyError, ValueError, IndexError, NotImplementedError, TypeError) as error:
        raise DataError(f"ingest.class_list={uri}: is not ILSVRC's meta.mat ({error})") from error
    return ClassList(tuple(r[0] for r in rows), tuple(r[1] for r in rows), {r[2]: r[0] for r in rows})


def _member(data: bytes, name: str, uri: str) -> bytes:
    with tarfile.open(fileobj=memory.BytesIO(data)) as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.name.rsplit("/", 1)[-1] == name else None
            if stream is not None:
                return stream.read()
    raise DataError(f"{uri}: has no {name} in it: is it ILSVRC's development kit?")


def _read(uri: str, setting: str) -> bytes:
    try:
        return io.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{setting}={uri}: cannot be read ({reason}); give the path or URI of the file") from error


def _text(data: bytes, uri: str, setting: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{setting}={uri}: is not UTF-8 text ({error})") from error

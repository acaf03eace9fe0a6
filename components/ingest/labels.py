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

from components.ingest.source_images import NO_LABEL
from vim_core.errors import DataError
from vim_core.storage import io

ARCHIVES = (".tar.gz", ".tgz", ".tar")
META_FILE, TRUTH_FILE = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
"""Names inside the development kit of ILSVRC."""

NUMBER = re.compile(r"_(\d{8})$")
WHOLE_NUMBER, FRACTION = re.compile(r"[+-]?[0-9]+(\.0*)?"), re.compile(r"[+-]?[0-9]*\.0*[1-9][0-9]*")
SHOWN = 40
"""Characters of a label that a message shows."""


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their labels.

    Attributes:
        ids: wnids or folder names.
        names: for people.
        origin: for messages.
        numbers: ids by ILSVRC's own number if given.
    """

    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    origin: str = ""
    numbers: dict[int, str] = field(default_factory=dict)

    def labels(self) -> dict[str, int]:
        """Label by id."""
        return {name: label for label, name in enumerate(self.ids)}


@dataclass(frozen=True)
class GroundTruth:
    """The classes of held-out images: by the stem of their name, or by the number at its end."""

    by_stem: dict[str, str]
    by_number: tuple[str, ...] = ()


def parse_label(value: object) -> tuple[str, int]:
    """Class name and number of a label as data sets keep it: '' and `NO_LABEL` for none.

    Whole numbers may be integers, floats or text, alone or in a list of one; a negative one means that there is no
    label. Other text, also as UTF-8 bytes, is a name.

    Raises:
        ValueError: it is something else, such as a fraction or several labels.
    """
    if isinstance(value, list | tuple):
        if len(value) > 1:
            raise ValueError(f"{len(value)} labels for one image")
        return parse_label(value[0]) if value else ("", NO_LABEL)
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str):
        value = value.strip()
        if FRACTION.fullmatch(value):
            raise ValueError(f"{value} is no whole number")
        if not WHOLE_NUMBER.fullmatch(value):
            return value, NO_LABEL
        value = int(value.partition(".")[0])
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return "", NO_LABEL if value is None else max(value, NO_LABEL)
    if isinstance(value, float) and value.is_integer():
        return "", max(int(value), NO_LABEL)
    raise ValueError(f"{str(value)[:SHOWN]!r} is neither a name nor a whole number")


def file_digest(uri: str, setting: str) -> str:
    """sha256 of the file of a setting. Raises `DataError` where it cannot be read."""
    return hashlib.sha256(_read(uri, setting)).hexdigest()


@lru_cache(maxsize=4)
def read_classes(uri: str) -> ClassList:
    """A class list: a text file, `meta.mat` of ILSVRC's development kit, or the kit's archive itself.

    The text has one class a line in the order of the labels, `wnid name`, with ILSVRC's number of it in front where
    a ground-truth file of such numbers is to be read. `meta.mat` gives the labels by sorted wnid.

    Raises:
        DataError: the file cannot be read, or is none of these.
    """
    setting = "ingest.class_list"
    data = _read(uri, setting, META_FILE)
    if uri.endswith((".mat", *ARCHIVES)):
        from scipy.io import loadmat

        try:
            synsets: Any = loadmat(memory.BytesIO(data), squeeze_me=True)["synsets"]
            leaves = synsets[synsets["num_children"] == 0]
            rows = sorted((str(s["WNID"]), str(s["words"]), int(s["ILSVRC2012_ID"])) for s in leaves)
        except (KeyError, ValueError, IndexError, NotImplementedError, TypeError) as error:
            raise DataError(f"{setting}={uri}: is not ILSVRC's meta.mat ({error})") from error
        wnids, words = tuple(r[0] for r in rows), tuple(r[1] for r in rows)
        return ClassList(wnids, words, "the class list", {r[2]: r[0] for r in rows})
    ids: list[str] = []
    names: list[str] = []
    numbers: dict[int, str] = {}
    for line in filter(None, map(str.strip, _decode(data, uri, setting).splitlines())):
        first, _, rest = line.replace("\t", " ").partition(" ")
        number = 0
        if first.isdigit() and rest.strip():
            number = int(first)
            first, _, rest = rest.strip().partition(" ")
        ids.append(first)
        names.append(rest.strip() or first)
        if number:
            numbers[number] = first
    if not ids or len(set(ids)) != len(ids):
        raise DataError(f"{setting}={uri}: expected one class a line, each once: `wnid name` or `number wnid name`")
    return ClassList(tuple(ids), tuple(names), "the class list", numbers)


@lru_cache(maxsize=4)
def read_truth(uri: str) -> GroundTruth:
    """A ground-truth file: one class a line in the order of the images' numbers, or `image class` a line.

    Classes are wnids or numbers: alone in a line ILSVRC's own (1 to 1,000), beside a name labels (0 to 999). A first
    line `ImageId,…` is a heading. The development kit's archive is read as its ground-truth file.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    setting = "ingest.val_labels"
    text = _decode(_read(uri, setting, TRUTH_FILE), uri, setting)
    lines = [re.split(r"[,\s]+", line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{setting}={uri}: is empty; expected a class or an image and its class a line")
    if len(lines[0]) == 1:
        return GroundTruth({}, tuple(line[0] for line in lines))
    return GroundTruth({file_stem(line[0]): line[1] for line in lines if line[0] != "ImageId"})


def label_resolver(classes: ClassList | None, truth: GroundTruth) -> Callable[[str], tuple[str, int, str]]:
    """A function from an image's stem to (class name, label, reason why it has neither)."""

    def resolve(stem: str) -> tuple[str, int, str]:
        name, number = truth.by_stem.get(stem), NUMBER.search(stem)
        if truth.by_number and number and 0 < int(number[1]) <= len(truth.by_number):
            name = truth.by_number[int(number[1]) - 1]
        if name is None:
            return "", NO_LABEL, "not in ingest.val_labels"
        if not name.isdigit():
            return name, NO_LABEL, ""
        if not truth.by_number:
            return "", int(name), ""
        if classes is None or int(name) not in classes.numbers:
            raise DataError(
                f"ingest.val_labels names class {name} by ILSVRC's own number, which is no label: give meta.mat, the "
                "development kit, or lines `number wnid name` as ingest.class_list"
            )
        return classes.numbers[int(name)], NO_LABEL, ""

    return resolve


def file_stem(path: str) -> str:
    """The name of a file without folder and suffix."""
    name = path.rsplit("/", 1)[-1]
    return name.rpartition(".")[0] or name


def _read(uri: str, setting: str, member: str = "") -> bytes:
    """The content of a setting's file; with `member`, that of this file in it where it is an archive."""
    try:
        data = io.read_input(uri)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{setting}={uri}: cannot be read ({reason}); give the path or URI of the file") from error
    if not (member and uri.endswith(ARCHIVES)):
        return data
    with tarfile.open(fileobj=memory.BytesIO(data)) as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.name.rsplit("/", 1)[-1] == member else None
            if stream is not None:
                return stream.read()
    raise DataError(f"{uri}: has no {member} in it: is it ILSVRC's development kit?")


def _decode(data: bytes, uri: str, setting: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{setting}={uri}: is not UTF-8 text ({error})") from error

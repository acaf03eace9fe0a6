"""Decoding is the inverse of `asdict` for every settings class, and refuses what is not exactly of its type."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vim_core import config
from vim_core.config.decode import decode, field_types
from vim_core.config.fields import added_later, require
from vim_core.errors import ConfigError, DataError

CLASSES = [cls for cls in vars(config).values() if isinstance(cls, type) and is_dataclass(cls)]


@dataclass
class Inner:
    width: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        require(self.width > 0, "inner.width", self.width, "must be positive")


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str | None = None
    many: list[Inner] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "a")
    row: tuple[int, ...] = ()
    mode: Literal["on", "off", 3] = "on"
    number: float | int | None = None
    either: Inner | list[int] = field(default_factory=list)
    anything: Any = None
    new: int = added_later(7)


inners = st.builds(Inner, st.integers(1), st.floats(allow_nan=False, allow_infinity=False))
outers = st.builds(
    Outer,
    inners,
    st.none() | st.text(),
    st.lists(inners, max_size=2),
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    st.tuples(st.integers(), st.text()),
    st.lists(st.integers(), max_size=3).map(tuple),
    st.sampled_from(["on", "off", 3]),
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    inners | st.lists(st.integers(), max_size=2),
    st.none() | st.booleans() | st.lists(st.text(), max_size=2),
    st.integers(),
)


@given(outers, st.booleans())
def test_decoding_is_the_inverse_of_asdict(value: Outer, through_json: bool) -> None:
    tree = asdict(value)
    made = decode(Outer, json.loads(json.dumps(tree)) if through_json else tree)
    assert made == value
    assert type(made.number) is type(value.number)


@given(st.data())
def test_every_settings_class_decodes_its_changed_copies(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(CLASSES))
    try:
        value = cls()
    except ConfigError:
        return
    tree = asdict(value)
    for name, kind in field_types(cls).items():
        draw = {bool: st.booleans(), int: st.integers(1, 99), str: st.text(), float: st.floats(0, 1)}.get(kind)
        if draw is not None and data.draw(st.booleans()):
            tree[name] = data.draw(draw)
    try:
        expected = cls(**{name: tree[name] if not is_dataclass(v := getattr(value, name)) else v for name in tree})
    except ConfigError:
        return  # the class refuses this combination
    assert decode(cls, tree) == expected


def whole(**changed: Any) -> dict[str, Any]:
    return {**asdict(Outer()), **changed}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (whole(naem="x"), r"f: a\.naem: unknown key; did you mean a\.name\?"),
        (whole(inner={"width": 1}), r"f: missing a\.inner\.share"),
        (whole(inner=3), r"f: a\.inner=3: expected a mapping, found int"),
        (whole(inner={"width": True, "share": 1}), r"f: a\.inner\.width=True: expected int, found bool"),
        (whole(inner={"width": 1, "share": True}), r"a\.inner\.share=True: expected a finite number, found bool"),
        (whole(inner={"width": 1, "share": float("nan")}), r"a\.inner\.share=nan: expected a finite number"),
        (whole(inner={"width": 0, "share": 1}), r"f: a\.inner\.width=0: must be positive"),
        (whole(many=[{"width": 1, "share": 1}, {}]), r"missing a\.many\[1\]\.width, a\.many\[1\]\.share"),
        (whole(many="x"), r"a\.many='x': expected list\[.*Inner\], found str"),
        (whole(table={"x": "1"}), r"a\.table\.x='1': expected a finite number"),
        (whole(table={1: 1.0}), r"a\.table=\{1: 1\.0\}: expected dict"),
        (whole(pair=[1]), r"a\.pair=\[1\]: expected tuple\[int, str\]"),
        (whole(row=[1, 2.0]), r"a\.row\[1\]=2\.0: expected int, found float"),
        (whole(mode="of"), r"a\.mode='of': expected .*Literal\['on', 'off', 3\]"),
        (whole(mode=3.0), r"a\.mode=3\.0: expected"),
        (whole(name=1), r"a\.name=1: expected str, found int"),
        (whole(either="x"), r"a\.either='x': expected .*Inner \| list\[int\], found str"),
        ([], r"f: a=\[\]: expected a mapping, found list"),
    ],
)
def test_refusals(tree: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(Outer, tree, "f", key="a", error=DataError)


def test_only_later_fields_have_defaults_unless_told_otherwise() -> None:
    tree = whole()
    del tree["new"]
    assert decode(Outer, tree).new == 7
    del tree["name"]
    with pytest.raises(ConfigError, match=r"^missing name$"):
        decode(Outer, tree)
    assert decode(Outer, {"inner": {"width": 3}}, defaults=True) == Outer(Inner(3))


def test_numbers_become_floats_and_lists_tuples() -> None:
    made = decode(Outer, whole(inner={"width": 1, "share": 1}, pair=[2, "b"], row=[1, 2]))
    assert (type(made.inner.share), made.pair, made.row) == (float, (2, "b"), (1, 2))

"""The layout of the code: no import circles, few files at the roots, short files and functions, tests by room."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.common import REPOSITORY

ROOTS = {"vim_core": 3, "components": 10, "pipelines": 3}
"""Modules at most beside `__init__.py` directly in a package; everything else has a room."""
FILE_LINES, FUNCTION_LINES = 400, 80
FORBIDDEN_STARTS = ("Of ", "What ", "Whether ", "How ")
ONE_CALLER_SHARE = 0.1
"""Private functions with one use in their module, of all functions."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources() -> dict[Path, ast.Module]:
    """Syntax trees of the product's modules by path below the repository."""
    paths = sorted(path for root in ROOTS for path in (REPOSITORY / root).rglob("*.py"))
    return {path.relative_to(REPOSITORY): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def nodes() -> dict[Path, list[ast.AST]]:
    """All nodes of each of them."""
    return {path: list(ast.walk(tree)) for path, tree in sources().items()}


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def functions() -> Iterator[tuple[Path, Function]]:
    for path, inside in nodes().items():
        yield from ((path, node) for node in inside if isinstance(node, Function))


def imported(inside: list[ast.AST], known: set[str]) -> Iterator[str]:
    """The product's modules that a module with these nodes imports, wherever in it."""
    for node in inside:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from {name if name in known else node.module} & known


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = {module(path) for path in sources()}
    graph = {module(path): set(imported(inside, known)) - {module(path)} for path, inside in nodes().items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"these modules import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("root", ROOTS)
def test_few_modules_lie_at_the_root_of_a_package(root: str) -> None:
    names = {path.name for path in (REPOSITORY / root).glob("*.py")} - {"__init__.py"}
    assert len(names) <= ROOTS[root], sorted(names)


def test_files_and_functions_are_short() -> None:
    files = {str(path): len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {name: lines for name, lines in files.items() if lines > FILE_LINES} == {}
    lines = {f"{path}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions()}
    assert {name: count for name, count in lines.items() if count > FUNCTION_LINES} == {}


def test_folders_of_unit_tests_are_rooms_of_the_product() -> None:
    tests = REPOSITORY / "tests" / "unit"
    folders = {path.parent.relative_to(tests) for root in ROOTS for path in (tests / root).rglob("test_*.py")}
    assert sorted(map(str, folders - {path.parent for path in sources()})) == []


def test_docstrings_say_what_a_thing_is() -> None:
    every = [node for inside in nodes().values() for node in inside]
    documented = [node for node in every if isinstance(node, Function | ast.ClassDef | ast.Module)]
    texts = [ast.get_docstring(node) or "" for node in documented]
    found = [text.splitlines()[0] for text in texts if text.startswith(FORBIDDEN_STARTS)]
    assert not found


def test_few_private_functions_have_one_caller() -> None:
    alone = 0
    for inside in nodes().values():
        names = [node.id if isinstance(node, ast.Name) else node.attr for node in inside
                 if isinstance(node, ast.Name | ast.Attribute)]  # fmt: skip
        private = [node.name for node in inside if isinstance(node, Function) and node.name.startswith("_")]
        alone += sum(not name.startswith("__") and names.count(name) == 1 for name in private)
    total = sum(1 for _ in functions())
    assert alone / total <= ONE_CALLER_SHARE, f"{alone} of {total}"

"""Merging parts in a fixed binary tree: the bits of the result do not depend on the order in which parts arrive."""

from __future__ import annotations

from functools import reduce
from typing import Protocol, Self, TypeVar


class Mergeable(Protocol):
    """Statistics of some images that merge with those of others and travel as bytes."""

    def merge(self, other: Self) -> Self:
        """Statistics of both sets together."""
        ...

    def to_bytes(self) -> bytes:
        """As a file; equal statistics give equal bytes."""
        ...


P = TypeVar("P", bound=Mergeable)


def insert(nodes: dict[tuple[int, int], P], level: int, index: int, part: P) -> None:
    """Put a node into a binary tree over part numbers; whenever both children are there, their parent replaces them.

    Node (level, index) covers parts index * 2^level to (index + 1) * 2^level - 1. Which parts are merged with which
    is fixed by their numbers, so any order of insertion gives the same bits. In order, log2 of them are held at once.
    """
    while (other := nodes.pop((level, index ^ 1), None)) is not None:
        left, right = (other, part) if index & 1 else (part, other)
        level, index, part = level + 1, index >> 1, left.merge(right)
    nodes[level, index] = part


def total(nodes: dict[tuple[int, int], P]) -> P:
    """All nodes merged; the incomplete end of the tree first, which is how `moments.merge_all` pairs a whole list."""
    ordered = sorted(nodes, key=lambda node: node[1] << node[0])
    return reduce(lambda right, left: left.merge(right), (nodes[node] for node in reversed(ordered)))

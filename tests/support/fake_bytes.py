"""Bytes that a computation would hold: real code on tensors without storage, at any size."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class FakeBytes(TorchDispatchMode):
    """Follows the storages that operations return: bytes alive `now`, and the `peak` since it was last set."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        pytree.tree_map_(self._note, result)
        return result

    def _note(self, value: object) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed() -> None:
            self._known.discard(key)
            self.now -= size

        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, freed)


@contextmanager
def fake_bytes() -> Iterator[FakeBytes]:
    """Tensors made inside have no storage; real ones that are read stay what they are and are not counted."""
    counted = FakeBytes()
    with FakeTensorMode(allow_non_fake_inputs=True), counted:
        yield counted

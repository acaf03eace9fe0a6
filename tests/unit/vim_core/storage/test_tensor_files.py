"""Shard files are safetensors to its own library, and give any rows back, from disk and from remote stores."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from tests.support.tiny import assert_equal_bits
from vim_core.storage import io, tensor_files


def tensors() -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    found = {str(dtype): (torch.randn(5, 3, generator=made) * 50).to(dtype) for dtype in tensor_files.DTYPE_NAMES}
    return found | {"scalar": torch.tensor(3.5), "none": torch.empty(0, 4), "flag": torch.tensor([True, False, True])}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "a.safetensors")
    size, digest = tensor_files.write_tensors(uri, tensors(), {"step": "7"})
    data = Path(uri).read_bytes()
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest()) == io.checksum(uri)
    with safe_open(uri, framework="pt") as opened:
        assert opened.metadata() == {"step": "7"}
        assert_equal_bits({name: opened.get_tensor(name) for name in opened.keys()}, tensors())  # noqa: SIM118


def test_rows_are_those_of_the_tensor(anywhere: str) -> None:
    uri = f"{anywhere}/a"
    tensor_files.write_tensors(uri, tensors(), {})
    shard = tensor_files.TensorFile(uri)
    assert_equal_bits({name: shard.rows(name) for name in tensors()}, tensors())
    assert torch.equal(shard.rows("torch.bfloat16", 1, 4), tensors()["torch.bfloat16"][1:4])
    assert shard.rows("torch.int64", 2, 2).shape == (0, 3)
    with pytest.raises(KeyError):
        shard.rows("other")


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 3))
def test_any_cut_of_the_rows_gives_the_tensor(first: int, second: int, width: int) -> None:
    low, high = sorted((first, second))
    value = torch.arange(9 * width).view(9, width)
    uri = f"memory://shards-law-{uuid.uuid4().hex}"
    tensor_files.write_tensors(uri, {"x": value}, {})
    shard = tensor_files.TensorFile(uri)
    assert torch.equal(torch.cat([shard.rows("x", 0, low), shard.rows("x", low, high), shard.rows("x", high)]), value)
    io.remove_tree(uri)

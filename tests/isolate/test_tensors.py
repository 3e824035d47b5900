"""Tensors in shared memory: what is packed comes back, and a lying layout is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kevolve_core.isolate.tensors import LayoutError, ReusableBlock, open_block, pack_block

TREES: dict[str, Callable[[], Any]] = {
    "contiguous": lambda: torch.randn(3, 5),
    "transposed": lambda: torch.randn(3, 5).t(),
    "strided": lambda: torch.arange(20)[3::2],
    "scalar tensor": lambda: torch.tensor(2.5),
    "empty": lambda: torch.empty(0, 4),
    "bfloat16": lambda: torch.randn(7).bfloat16(),
    "bool": lambda: torch.tensor([True, False]),
    "nested": lambda: {"a": [torch.ones(2), 3, None], "b": (torch.zeros(1), "text", float("inf"))},
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_as_it_was(name: str) -> None:
    tree = TREES[name]()
    block = pack_block(tree)
    again = open_block(block.fd, block.layout)
    flat, flat_again = torch.utils._pytree.tree_leaves(tree), torch.utils._pytree.tree_leaves(again)
    for one, other in zip(flat, flat_again, strict=True):
        if isinstance(one, torch.Tensor):
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())
            assert torch.equal(one, other)
        else:
            assert one == other
    block.close()


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "too long": lambda leaf: leaf.update(shape=[1000]),
    "negative offset": lambda leaf: leaf.update(offset=-64),
    "negative stride": lambda leaf: leaf.update(strides=[-1]),
    "far offset": lambda leaf: leaf.update(offset=1 << 40),
    "huge stride": lambda leaf: leaf.update(strides=[1 << 40]),
    "no such dtype": lambda leaf: leaf.update(dtype="float3"),
    "not a dtype": lambda leaf: leaf.update(dtype="nn"),
    "shape of text": lambda leaf: leaf.update(shape="wide"),
    "no shape": lambda leaf: leaf.pop("shape"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_layout_is_refused(name: str) -> None:
    block = pack_block(torch.ones(8))
    LIES[name](block.layout["leaves"][0])
    with pytest.raises(LayoutError):
        open_block(block.fd, block.layout)


def test_memory_that_could_still_change_is_refused() -> None:
    block = pack_block(torch.ones(8))
    open_fd = os.memfd_create("unsealed")
    os.ftruncate(open_fd, 64)
    with pytest.raises(LayoutError, match="not sealed"):
        open_block(open_fd, block.layout)


def test_a_packed_block_cannot_be_written_or_shrunk() -> None:
    block = pack_block(torch.ones(8))
    with pytest.raises(PermissionError):
        os.pwrite(block.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(block.fd, 0)


def test_a_reused_block_holds_the_latest_content_for_its_owner_alone() -> None:
    reusable = ReusableBlock()
    reusable.fill(torch.zeros(8)).close()
    block = reusable.fill(torch.ones(8))
    assert torch.equal(open_block(block.fd, block.layout, trusted=True), torch.ones(8))
    with pytest.raises(PermissionError):
        os.pwrite(block.fd, b"x", 0)
    with pytest.raises(LayoutError, match="not sealed"):
        open_block(block.fd, block.layout)
    block.close()
    reusable.close()

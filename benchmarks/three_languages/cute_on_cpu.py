"""As much of CuTe DSL as this folder's kernels without tensor cores use, run on a CPU.

`standing_in` puts modules of the DSL's names in place of it. A thread of a block is a thread; every
coordinate is checked against its tensor's shape and every address against its memory; shared memory begins as
NaN. It shows what a kernel reads, writes and adds up, not what the DSL's compiler makes of it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

_here = threading.local()


class Layout:
    """Shape and strides; compact with the first dimension fastest unless strides are given."""

    def __init__(self, shape: Any, stride: Any = None) -> None:
        self.shape = shape if isinstance(shape, tuple) else (shape,)
        compact = tuple(math.prod(self.shape[:d]) for d in range(len(self.shape)))
        self.stride = compact if stride is None else (stride if isinstance(stride, tuple) else (stride,))


class Tensor:
    """A view of a flat NumPy array."""

    def __init__(self, memory: Any, layout: Layout, offset: int = 0) -> None:
        self.memory, self.layout, self.offset = memory, layout, offset
        self.shape, self.iterator = layout.shape, (memory, offset)

    def _at(self, index: Any) -> tuple[int, list[tuple[int, int]]]:
        if not isinstance(index, tuple):  # a number counts the first dimension fastest
            parts, rest = [], int(index)
            for n in self.shape[:-1]:
                parts.append(rest % n)
                rest //= n
            index = (*parts, rest)
        assert len(index) == len(self.shape), f"{index} into {self.shape}"
        at, left = self.offset, []
        for i, n, s in zip(index, self.shape, self.layout.stride, strict=True):
            if i is None:
                left.append((n, s))
                continue
            assert 0 <= i < n, f"{index} is outside of {self.shape}"
            at += int(i) * s
        if not left:
            assert 0 <= at < len(self.memory), f"address {at} of {len(self.memory)}"
        return at, left

    def __getitem__(self, index: Any) -> Any:
        at, left = self._at(index)
        if not left:
            return self.memory[at]
        return Tensor(self.memory, Layout(tuple(n for n, _ in left), tuple(s for _, s in left)), at)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.memory[self._at(index)[0]] = value

    def fill(self, value: Any) -> None:
        for i in range(math.prod(self.shape)):
            self[i] = value


class _Block:
    """What the threads of a block share."""

    def __init__(self, threads: int) -> None:
        self.all = threading.Barrier(threads)
        self.warps = [threading.Barrier(min(32, threads - t)) for t in range(0, threads, 32)]
        self.lanes: list[Any] = [None] * threads
        self.shared: dict[Any, Any] = {}


def _kernel(body: Callable[..., None]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        def launch(grid: Any, block: Any, stream: Any) -> None:
            del stream
            threads = math.prod(block)
            common, faults = _Block(threads), list[BaseException]()

            def run(t: int) -> None:
                _here.block, _here.number = common, t
                _here.thread = (t % block[0], t // block[0] % block[1], t // (block[0] * block[1]))
                try:
                    with np.errstate(all="ignore"):
                        for z, y, x in itertools.product(*map(range, reversed(grid))):
                            _here.place, _here.allocated = (x, y, z), 0
                            body(*arguments)
                            common.all.wait()
                            common.shared.clear()
                            common.all.wait()
                except threading.BrokenBarrierError:
                    return
                except BaseException as error:
                    faults.append(error)
                    for barrier in (common.all, *common.warps):
                        barrier.abort()

            running = [threading.Thread(target=run, args=[t]) for t in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            if faults:
                raise faults[0]

        return SimpleNamespace(launch=launch)

    return called


def _alloc_smem(kind: Any, count: int) -> tuple[Any, int]:
    assert kind is _Float32
    _here.allocated += 1
    memory = _here.block.shared.setdefault(_here.allocated, np.full(count, np.nan, np.float32))
    return memory, 0


def _warp_reduction(value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    warp, lane = divmod(_here.number, 32)
    _here.block.lanes[_here.number] = value
    _here.block.warps[warp].wait()
    found = _here.block.lanes[32 * warp : 32 * warp + 32]
    _here.block.warps[warp].wait()
    by = 16
    while by:  # in the order of the butterfly
        found = [combine(found[i], found[i ^ by]) for i in range(32)]
        by //= 2
    return found[lane]


def _inline_ptx(text: str, *, write_only_types: Any, read_only_args: Any) -> Any:
    assert (text, len(write_only_types)) == ("ex2.approx.ftz.f32 {$w0}, {$r0};", 1)
    return np.exp2(np.float32(read_only_args[0]))


def _autovec_copy(source: Tensor, to: Tensor) -> None:
    assert source.shape == to.shape, f"{source.shape} to {to.shape}"
    for i in range(math.prod(source.shape)):
        to[i] = source[i]


def _from_dlpack(tensor: torch.Tensor, assumed_align: int) -> Tensor:
    assert tensor.data_ptr() % assumed_align == 0
    return Tensor(tensor.reshape(-1).numpy(), Layout(tuple(tensor.shape), tuple(tensor.stride())))


def _modules() -> dict[str, Any]:
    arch = SimpleNamespace(
        thread_idx=lambda: _here.thread, block_idx=lambda: _here.place, lane_idx=lambda: _here.number % 32,
        warp_idx=lambda: _here.number // 32, sync_threads=lambda: _here.block.all.wait(), fmax=np.fmax,
        alloc_smem=_alloc_smem, warp_reduction=_warp_reduction, inline_ptx=_inline_ptx,
        warp_reduction_sum=lambda value: _warp_reduction(value, lambda a, b: a + b),
    )  # fmt: skip
    cute: Any = ModuleType("cutlass.cute")
    cute.arch, cute.Tensor, cute.kernel, cute.jit = arch, Tensor, _kernel, lambda f: f
    cute.math = SimpleNamespace(exp=np.exp, sqrt=np.sqrt, log=np.log)
    cute.make_layout, cute.ceil_div = Layout, lambda a, b: -(-a // b)
    cute.make_tensor = lambda at, layout: Tensor(at[0], _laid(layout), at[1])
    cute.make_rmem_tensor = lambda layout, _: Tensor(
        np.full(_size(layout), np.nan, np.float32), _laid(layout)
    )
    cute.autovec_copy, cute.size = _autovec_copy, lambda tensor: math.prod(tensor.shape)
    cute.compile = lambda function, *_: function
    cutlass: Any = ModuleType("cutlass")
    cutlass.cute, cutlass.Float32, cutlass.Int32, cutlass.Constexpr = cute, _Float32, int, object
    cutlass.range_constexpr = range
    runtime: Any = ModuleType("cutlass.cute.runtime")
    runtime.from_dlpack = _from_dlpack
    driver = SimpleNamespace(CUstream=lambda _: None)
    bindings: Any = ModuleType("cuda.bindings")
    bindings.driver = driver
    return {
        "cutlass": cutlass,
        "cutlass.cute": cute,
        "cutlass.cute.runtime": runtime,
        "cuda.bindings": bindings,
    }


class _Float32(np.float32):
    inf = np.float32(np.inf)

    def __new__(cls, value: Any) -> Any:
        return np.float32(value)


def _laid(layout: Any) -> Layout:
    return layout if isinstance(layout, Layout) else Layout(layout)


def _size(layout: Any) -> int:
    return math.prod(_laid(layout).shape)


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """While active, importing the DSL gives the stand-in, and PyTorch has a stream."""
    own = _modules()
    before, stream = {name: sys.modules.get(name) for name in own}, torch.cuda.current_stream
    sys.modules.update(own)
    torch.cuda.current_stream = lambda *_: SimpleNamespace(cuda_stream=0)
    try:
        yield
    finally:
        torch.cuda.current_stream = stream
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module

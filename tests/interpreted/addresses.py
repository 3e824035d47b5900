"""Whether a generated Triton program touches memory beside its tensors, at sizes whose data nobody has.

Tensors are on PyTorch's meta device and have made-up addresses far apart. Triton's interpreter runs the
kernels' index arithmetic on some programs of each launch, as wide as the kernels have it (so that an offset
beyond 2^31 wraps here too), and every address that a load or store would use is looked up. Loads give zeros.
``python -m tests.interpreted.addresses FILE…`` checks candidates or exports, on the shapes they were made
for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton
from attrs import define, field
from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor

from tests.interpreted.repairs import repair

__all__ = ["Found", "checked", "inside", "run_file"]

_APART = 1 << 44  # bytes between the first bytes of two tensors


@define
class Found:
    """What a run touched: launches, programs of them that ran, and each access that is beside its tensor."""

    launches: int = 0
    programs: int = 0
    accesses: int = 0
    wrong: list[str] = field(factory=list)


def _sampled(count: int, most: int) -> list[int]:
    """The ends of ``range(count)``, and places between that no power of two divides evenly."""
    ends = {0, 1, count - 2, count - 1}
    ends |= {k * count // most + k for k in range(most)}
    return sorted(n for n in ends if 0 <= n < count)


@define
class _Memory:
    """Where tensors lie. Storages have numbers; an address beyond the storage is beside it."""

    found: Found
    sizes: dict[int, tuple[str, int]] = field(factory=dict)
    known: dict[int, tuple[int, Any]] = field(factory=dict)
    kernel: str = ""

    def address(self, name: str, t: torch.Tensor) -> int:
        storage = t.untyped_storage()
        if storage._cdata not in self.known:
            self.known[storage._cdata] = (
                len(self.known) + 1,
                storage,
            )  # kept, so that its number stays its own
        number = self.known[storage._cdata][0]
        self.sizes[number] = name, storage.nbytes()
        return number * _APART + t.storage_offset() * t.element_size()

    def look(self, pointers: Any, mask: Any, what: str) -> None:
        at = np.broadcast_to(pointers.data, np.broadcast_shapes(pointers.data.shape, mask.data.shape))
        at = at[np.broadcast_to(mask.data, at.shape).astype(bool)].astype(np.int64)
        self.found.accesses += at.size
        if not at.size:
            return
        low, high = int(at.min()), int(at.max())
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        number = (low + _APART // 2) // _APART
        name, size = self.sizes.get(number, ("no tensor", 0))
        first, last = low - number * _APART, high - number * _APART + width
        if first < 0 or last > size:
            where = f"{self.kernel} program {interpreter.interpreter_builder.grid_idx}"
            self.found.wrong.append(f"{where}: {what} of {name} at bytes {first} to {last} of {size}")


@contextmanager
def inside(found: Found, most: int = 6) -> Iterator[None]:
    """While active, launches are noted in ``found`` and run on about ``most`` programs each."""
    repair()
    memory = _Memory(found)
    builder = interpreter.interpreter_builder
    kind = type(builder)
    before = kind.create_masked_load, kind.create_masked_store, interpreter.GridExecutor.__call__

    def load(_: Any, pointers: Any, mask: Any, *_rest: Any, **_how: Any) -> Any:
        memory.look(pointers, mask, "load")
        dtype = pointers.get_element_ty()
        zeros = np.zeros_like(pointers.data, dtype=interpreter._get_np_dtype(dtype))
        return interpreter.TensorHandle(zeros, dtype)

    def store(_: Any, pointers: Any, _value: Any, mask: Any, *_rest: Any) -> None:
        memory.look(pointers, mask, "store")

    def call(self: Any, *args: Any, **options: Any) -> None:
        named = dict(zip(self.arg_names, args, strict=False))
        named |= {k: v for k, v in options.items() if k in self.arg_names}
        memory.kernel = self.fn.__name__
        given = {k: v if k in self.constexprs else _argument(memory, k, v) for k, v in named.items()}
        grid = self.grid(given) if callable(self.grid) else self.grid
        scope = interpreter._patch_lang(self.fn)
        found.launches += 1
        try:
            builder.set_grid_dim(*grid, *[1] * (3 - len(grid)))
            for x in _sampled(grid[0], most):
                builder.set_grid_idx(x, 0, 0)
                found.programs += 1
                self.fn(**given)
        finally:
            scope.restore()

    kind.create_masked_load, kind.create_masked_store = load, store
    interpreter.GridExecutor.__call__ = call
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        kind.create_masked_load, kind.create_masked_store, interpreter.GridExecutor.__call__ = before


def _argument(memory: _Memory, name: str, value: Any) -> Any:
    if isinstance(value, TensorDescriptor):
        made = interpreter._implicit_cvt(value)
        made.handle.base = _argument(memory, name, value.base).handle
        return made
    if not isinstance(value, torch.Tensor):
        return interpreter._implicit_cvt(value)
    kind = triton.language.str_to_ty(triton.runtime.jit.mangle_type(value), None)
    place = np.array([memory.address(name, value)], dtype=np.uint64)
    return triton.language.tensor(interpreter.TensorHandle(place, kind), kind)


def checked(call: Callable[..., Any], inputs: Sequence[torch.Tensor], most: int = 6) -> Found:
    """What ``call(*inputs)`` touches."""
    found = Found()
    with inside(found, most), torch.no_grad():
        call(*inputs)
    return found


def run_file(module: ModuleType, most: int = 6) -> Mapping[str, Found]:
    """`checked` for every case that a generated module was made for, by the name of its function."""
    found: dict[str, Found] = {}
    weights = [torch.empty(s, dtype=d, device="meta") for s, d in getattr(module, "_STATE", {}).values()]
    for shapes, run in module._CASES.items():
        inputs = [torch.empty(s, dtype=d, device="meta") for s, d in shapes]
        found[run.__name__] = checked(run, [*inputs, *weights], most)
    return found


def main(files: Sequence[str]) -> int:
    from importlib.util import module_from_spec, spec_from_file_location

    bad = 0
    for file in files:
        spec = spec_from_file_location(f"candidate_{abs(hash(file))}", Path(file))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, f in run_file(module).items():
            bad += len(f.wrong)
            print(f"{file} {name}: {f.launches} launches, {f.programs} programs, {f.accesses} addresses, "
                  f"{len(f.wrong)} beside their tensor")  # fmt: skip
            for line in f.wrong[:10]:
                print("   ", line)
    return bad


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)

"""`cute.compile` while a candidate is recorded, and while one runs: made ahead by one, found by the other.

While `recording`, what a candidate compiles is compiled for an architecture that need not be here, and what
it then launches does nothing. While `running_from` a folder, the same line of the candidate loads the object
file that was made ahead. Both stand in for ``cutlass.cute.compile`` and
``cutlass.cute.runtime.from_dlpack``. Touches ``JitCompiledFunction.artifacts``, ``export_to_c`` and
``load_module``; tested with nvidia-cutlass-dsl 4.8.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import define, field, frozen

from kevolve_core.errors import CompileError, KevolveError, UnsupportedError
from kevolve_nvidia.cutedsl.naming import compile_key, function_name
from kevolve_nvidia.cutedsl.tensors import Placeholder, marked_class

__all__ = ["CUTE_FOLDER", "Built", "recording", "require", "running_from"]

#: Folder of an artifact with one object file a compilation.
CUTE_FOLDER = "cute"
_PREFIX = "kevolve"  # of the symbols in an object file


@frozen
class Built:
    """One compilation: the function's name, its object file's, and what the compiler made."""

    name: str
    file: str
    cubin: bytes
    ptx: str
    host: str


def require() -> Any:
    """The module ``cutlass.cute``.

    Raises:
        UnsupportedError: the DSL is not installed; says how to install it.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # a confined process can write nowhere; the DSL only asks for the name
        tempfile.tempdir = "/tmp"
    try:
        return importlib.import_module("cutlass.cute")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cutlass":
            raise
        raise UnsupportedError(
            "CuTe DSL is not installed", got=str(error), mend="pip install 'kevolve-nvidia[cute]'"
        ) from error


@functools.cache
def _preloaded() -> None:
    """Load the DSL's runtime library for all: it does so itself only once it has compiled for the device that
    is there, and without one exporting fails."""
    from cutlass.cute.runtime import find_runtime_libraries

    for path in find_runtime_libraries(enable_tvm_ffi=False):
        if Path(path).exists():
            ctypes.CDLL(path, mode=os.RTLD_GLOBAL)


@contextlib.contextmanager
def _standing_in(compile_: Any, from_dlpack: Any) -> Iterator[None]:
    cute = require()
    _preloaded()
    runtime: Any = importlib.import_module("cutlass.cute.runtime")
    before = cute.compile, runtime.from_dlpack
    cute.compile, runtime.from_dlpack = compile_, from_dlpack
    try:
        yield
    finally:
        cute.compile, runtime.from_dlpack = before


@define
class _Recorder:
    """Stands for ``cute.compile``: compiles for ``arch`` into ``folder``."""

    arch: str
    folder: Path
    real: Any
    options: Any = None
    made: dict[str, Built] = field(factory=dict)

    def __getitem__(self, options: Any) -> _Recorder:
        return _Recorder(self.arch, self.folder, self.real[options], options, self.made)

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Callable[..., None]:
        key = compile_key(function, args, kwargs, self.options)
        if key not in self.made:
            self.made[key] = self._build(key, function, args, kwargs)
        return _nothing

    def _build(self, key: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Built:
        given = dict(kwargs)
        asked = f"{given.pop('options', '') or ''} --gpu-arch {self.arch} --keep-ptx --keep-cubin"
        asked += f" --dump-dir={self.folder}"
        name = function_name(function)
        fakes = {k: _faked(v) for k, v in given.items()}
        try:
            made = self.real(function, *(_faked(a) for a in args), **fakes, options=asked.strip())
        except Exception as error:
            raise CompileError(
                f"CuTe DSL cannot compile '{name}' for {self.arch}",
                log=f"{type(error).__name__}: {_plain(str(error))}",
                got=type(error).__name__,
                where=name,
            ) from error
        made.export_to_c(str(self.folder), key, _PREFIX)
        for left in self.folder.iterdir():  # the compiler's own dumps, whose names depend on no content
            if left.name != f"{key}.o" and left.suffix != ".o":
                left.unlink()
        kept = made.artifacts
        return Built(name, f"{key}.o", bytes(kept.CUBIN), str(kept.PTX), str(made.ir_module))


def _nothing(*_: Any, **__: Any) -> None:
    """What a compiled function does while it is recorded."""


def _faked(value: Any) -> Any:
    if isinstance(value, Placeholder):
        return value.fake()
    if isinstance(value, (list, tuple)):
        return type(value)(_faked(v) for v in value)
    return value


def _plain(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


def _placeholder(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(tensor, torch.Tensor):
        raise KevolveError(
            "only PyTorch's tensors can be given to from_dlpack here", got=type(tensor).__name__
        )
    return Placeholder(tensor, *args, **kwargs)


@contextlib.contextmanager
def recording(arch: str, folder: Path) -> Iterator[Mapping[str, Built]]:
    """While active, compile what is asked for into ``folder``; gives what was made, by key, which grows.

    Raises:
        UnsupportedError: the DSL is not installed.
        CompileError: (from the candidate's own call) the DSL refused a kernel; has its words.
    """
    recorder = _Recorder(arch, folder, require().compile)
    with _standing_in(recorder, _placeholder):
        yield recorder.made


@define
class _Loader:
    """Stands for ``cute.compile``: finds what was compiled ahead in ``folder``."""

    folder: Path
    options: Any = None
    loaded: dict[str, Any] = field(factory=dict)

    def __getitem__(self, options: Any) -> _Loader:
        return _Loader(self.folder, options, self.loaded)

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        key = compile_key(function, args, kwargs, self.options)
        if key not in self.loaded:
            path = self.folder / f"{key}.o"
            if not path.exists():
                raise KevolveError(
                    "the candidate compiles a CuTe DSL function in a way that was not compiled ahead",
                    got=function_name(function),
                    mend="compile with the argument types, sizes and options that the spec's cases lead to",
                )
            from cutlass.cute.runtime import load_module

            self.loaded[key] = load_module(str(path))[_PREFIX]
        return self.loaded[key]


@contextlib.contextmanager
def running_from(folder: Path) -> Iterator[None]:
    """While active, ``cute.compile`` loads from ``folder`` and never compiles."""
    require()
    marked = marked_class(importlib.import_module("cutlass.cute.runtime")._Tensor)

    def from_dlpack(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return marked(tensor, *args, **kwargs)

    with _standing_in(_Loader(folder), from_dlpack):
        yield

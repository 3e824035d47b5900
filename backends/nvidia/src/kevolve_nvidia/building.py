"""The worker that compiles: host code and compilers run here, away from the process that asked.

A compiler may crash, run for ever or fill the memory, and recording a candidate runs its host code; so both
happen in a process without network and with limits. Unlike one that runs kernels it may start processes
(ptxas) and write files (they go into the artifact).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kevolve_core.builds import BuildCache
from kevolve_core.errors import CompileError, KevolveError, ToolchainMissingError, UnsupportedError
from kevolve_core.isolate import sandbox
from kevolve_core.isolate.entry import EntryModules, exported
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.native import binding
from kevolve_core.serial import from_plain
from kevolve_nvidia.architectures import architecture
from kevolve_nvidia.binary import kernel_facts
from kevolve_nvidia.signature import arguments_of

__all__ = ["BuildRole"]

_ELF = b"\x7fELF"
_KINDS: tuple[tuple[type[KevolveError], str], ...] = (
    (CompileError, "compile"),
    (ToolchainMissingError, "toolchain"),
    (UnsupportedError, "unsupported"),
)


class BuildRole:
    """Operations of a compile worker (see `kevolve_core.isolate.worker`)."""

    def __init__(self, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        sys.dont_write_bytecode = True
        self._sandbox = sandbox.confine(write=True, processes=True)

    def op_signature(self, spec: Any, case: str) -> tuple[Any, list[Any]]:
        """See `kevolve_nvidia.signature.signature_of`."""
        from kevolve_nvidia.signature import signature_of

        known = from_plain(KernelSpec, spec)
        return signature_of(known, known.case(case)), []

    def op_build(self, language: str, **arguments: Any) -> tuple[Any, list[Any]]:
        """Build a candidate into ``work``: facts, or ``{"error": {"kind", …}}`` for what is not the worker's
        fault."""
        try:
            return (_cuda(**arguments) if language == "cuda" else _recorded(language, **arguments)), []
        except KevolveError as error:
            kind = next((name for cls, name in _KINDS if isinstance(error, cls)), "")
            if not kind:
                raise
            parts = {name: getattr(error, name) for name in ("what", "got", "where", "mend")}
            log = error.log if isinstance(error, CompileError) else ""
            plain = {k: None if v is None else str(v) for k, v in parts.items()}
            return {"error": {"kind": kind, "log": log[-20000:], **plain}}, []


def _cuda(
    files: Mapping[str, str], arch: str, flags: Sequence[str], includes: Sequence[str], work: str, **_: Any
) -> dict[str, Any]:
    from kevolve_nvidia.nvrtc import assemble, compile_cuda, translation_units

    known, folder = architecture(arch), Path(work)
    facts: dict[str, Any] = {"kernels": {}, "binaries": {}, "diagnostics": ""}
    for number, name in enumerate(translation_units(list(files))):
        if name.endswith(".ptx"):
            binary, log = assemble(name, files[name], known, folder)
            ptx = files[name]
        else:
            binary, ptx, log = compile_cuda(name, files, known, flags=flags, includes=includes)
        made = folder / f"{number}.{'cubin' if binary.startswith(_ELF) else 'ptx'}"
        made.write_bytes(binary)
        (folder / f"{number}.txt").write_text(ptx)
        facts["binaries"][name] = made.name
        facts["diagnostics"] += "".join(f"{line}\n" for line in log.splitlines() if "warning" in line)
        facts["kernels"] |= kernel_facts(made, known, threads=_launch_bounds(ptx), shared={}, ptx=ptx)
    return facts


def _launch_bounds(ptx: str) -> dict[str, int]:
    """Kernel -> the most threads a block that it declares (``__launch_bounds__``); others are not known."""
    import re

    found = {}
    for name, head in re.findall(r"\.entry\s+(\w+)\s*\(.*?\)([^{]*)\{", ptx, re.DOTALL):
        sizes = re.search(r"\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", head)
        if sizes:
            x, y, z = (int(n) if n else 1 for n in sizes.groups())
            found[name] = x * y * z
    return found


def _recorded(
    language: str,
    files: Mapping[str, str],
    entry: str,
    symbol: str,
    fallback_symbol: str,
    signature: Mapping[str, Any],
    arch: str,
    properties: Mapping[str, Any],
    work: str,
    kernels: str = "",
    kernel_bytes: int = 0,
    **_: Any,
) -> dict[str, Any]:
    """Languages whose kernels come out of running the host code."""
    if language == "cute":
        from kevolve_nvidia.cutedsl.build import build_cute as build
    else:
        from kevolve_nvidia.triton_build import build_triton as build

    with _Program(files, entry, symbol, fallback_symbol, signature, Path(work)) as make:
        known = BuildCache(Path(kernels), kernel_bytes) if kernels else None
        return build(make, signature, architecture(arch), properties, Path(work), known)


class _Program:
    """A context in which a candidate's program can be made from its files."""

    def __init__(
        self, files: Mapping[str, str], entry: str, symbol: str, fallback: str, signature: Any, work: Path
    ) -> None:
        self._files, self._entry, self._symbol, self._fallback = files, entry, symbol, fallback
        self._signature, self._folder = signature, work / "recorded"
        self._modules = EntryModules()

    def __enter__(self) -> Callable[[], Callable[..., Any]]:
        for name, text in self._files.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self._make

    def _make(self) -> Callable[..., Any]:
        try:
            with binding(_no_native):
                module = self._modules.load(self._folder, self._entry)
            target: Any = exported(module, self._symbol, self._fallback)
            if isinstance(target, type):
                target = target(*self._signature["args"], **self._signature["kwargs"])
            if isinstance(target, torch.nn.Module):
                # A generated module may take its weights' shapes from what it is given.
                state = self._signature["state"]
                values = arguments_of(state.values())
                target.load_state_dict(dict(zip(state, values, strict=True)), strict=False)
                target.train(self._signature["training"]).requires_grad_(False)
            program: Callable[..., Any] = target
            return program
        except KevolveError as error:
            raise CompileError(error.what, log=str(error), got=error.got, where=self._entry) from error
        except Exception as error:
            raise CompileError(
                "the candidate cannot be imported or constructed",
                log=f"{type(error).__name__}: {error}",
                got=f"{type(error).__name__}: {error}",
                where=self._entry,
            ) from error

    def __exit__(self, *_: Any) -> None:
        import shutil

        self._modules.reset()
        shutil.rmtree(self._folder, ignore_errors=True)


def _no_native(file: str, functions: Mapping[str, str]) -> Any:
    """Stands for native files while host code is recorded: their kernels launch nothing."""
    from types import SimpleNamespace

    del file
    return SimpleNamespace(**{name: lambda *_args, **_sizes: None for name in functions})

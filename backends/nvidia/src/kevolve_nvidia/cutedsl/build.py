"""A candidate in CuTe DSL to object files and cubins, without a device: its host code is recorded on every
layout of a case, and what it compiles is compiled. Triton kernels beside them are built in the same pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kevolve_core.builds import BuildCache
from kevolve_core.errors import CompileError
from kevolve_nvidia.architectures import Architecture
from kevolve_nvidia.binary import kernel_facts
from kevolve_nvidia.cutedsl.ahead import CUTE_FOLDER, Built, recording
from kevolve_nvidia.triton_build import build_triton

__all__ = ["build_cute"]

_THREADS = re.compile(r"\.entry\s+(\w+)\s*\(.*?\)([^{]*)\{", re.DOTALL)
_BLOCK = re.compile(r"\.(?:reqntid|maxntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")

_CONFIG = re.compile(
    r"(%\w+) = llvm\.getelementptr %\w+\[0, 2\] : \(!llvm\.ptr\) -> !llvm\.ptr, "
    r"!llvm\.struct<\(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32\)>"
)


def build_cute(
    make: Callable[[], Callable[..., Any]],
    signature: Mapping[str, Any],
    arch: Architecture,
    properties: Mapping[str, Any],
    work: Path,
    kernels: BuildCache | None = None,
) -> dict[str, Any]:
    """Compile every kernel that the candidate launches into ``work / CUTE_FOLDER`` (and Triton's, see
    `kevolve_nvidia.triton_build.build_triton`, whose arguments and result these are).

    Raises:
        CompileError: host code or a kernel is at fault; has the log.
        UnsupportedError: CuTe DSL is not installed.
    """
    folder = work / CUTE_FOLDER
    folder.mkdir()
    with recording(arch.name, folder) as made:
        facts = build_triton(make, signature, arch, properties, work, kernels)
    if not made and not facts["kernels"]:
        raise CompileError(
            "the candidate compiles no CuTe DSL kernel",
            log="compile with cutlass.cute.compile(function, …) and call what it gives; a jit function "
            "that is called as it is would be compiled on the device",
            got="no call of cute.compile",
        )
    for number, built in enumerate(made.values()):
        facts["binaries"][f"{built.name}-{number}"] = f"{CUTE_FOLDER}/{built.file}"
        _add(facts["kernels"], f"{built.name}-{number}", built, arch, work / CUTE_FOLDER)
    return facts


def _add(kernels: dict[str, Any], name: str, built: Built, arch: Architecture, folder: Path) -> None:
    """Facts of one compilation's kernels, named after the function that launches them."""
    cubin = folder / f"{Path(built.file).stem}.cubin"
    cubin.write_bytes(built.cubin)
    shared = _dynamic_shared(built.host)
    threads = _threads(built.ptx)
    if shared > arch.shared_per_block:
        raise CompileError(
            f"kernel '{name}' needs more shared memory than a block may have",
            log=f"{shared} bytes of at most {arch.shared_per_block}: smaller tiles, or fewer stages",
            got=f"{shared} bytes",
            where=name,
        )
    found = kernel_facts(
        cubin, arch, threads=threads, shared=dict.fromkeys(_entries(built.ptx), shared), ptx=built.ptx
    )
    for number, own in enumerate(found.values()):
        kernels[name if len(found) == 1 else f"{name}.{number}"] = own


def _entries(ptx: str) -> list[str]:
    return [name for name, _ in _THREADS.findall(ptx)]


def _threads(ptx: str) -> dict[str, int]:
    """Kernel -> threads a block, which the DSL fixes when it compiles."""
    found = {}
    for name, head in _THREADS.findall(ptx):
        if sizes := _BLOCK.search(head):
            x, y, z = (int(n) if n else 1 for n in sizes.groups())
            found[name] = x * y * z
    return found


def _dynamic_shared(host: str) -> int:
    """Bytes of dynamic shared memory of the largest launch, as the host code that the DSL makes stores them
    into the third field of ``cudaLaunchConfig_t``; 0 where they are not constant."""
    sizes = [0]
    for function in host.split("llvm.func ")[1:]:
        values = dict(re.findall(r"(%\w+) = llvm\.mlir\.constant\((\d+) : i64\)", function))
        for place in _CONFIG.findall(function):
            stored = re.search(rf"llvm\.store (%\w+), {place} : i64", function)
            if stored and stored[1] in values:
                sizes.append(int(values[stored[1]]))
    return max(sizes)

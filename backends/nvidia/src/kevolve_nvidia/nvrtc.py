"""CUDA C++ to a cubin through NVRTC, and PTX through ptxas."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kevolve_core.errors import CompileError, ToolchainMissingError, UnsupportedError
from kevolve_nvidia.architectures import Architecture
from kevolve_nvidia.tools import find_tool, include_dirs

__all__ = ["BASE_FLAGS", "assemble", "compile_cuda", "nvrtc_version", "translation_units"]

#: No ``--use_fast_math``: infinities, denormals and rounding behave as in eager PyTorch.
BASE_FLAGS = ("--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v")
_UNITS = (".cu", ".ptx")


def translation_units(files: Sequence[str]) -> tuple[str, ...]:
    """The candidate's native files that are built, in a fixed order; what is left are headers."""
    return tuple(sorted(f for f in files if PurePosixPath(f).suffix in _UNITS))


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except Exception as error:  # cuda-bindings has exceptions of its own for a library it cannot find
        raise ToolchainMissingError(
            "NVRTC, the compiler of CUDA C++, is not installed",
            got=str(error),
            mend="pip install 'kevolve-nvidia[cuda]'",
        ) from error
    return nvrtc


def nvrtc_version() -> str:
    """``13.0``. Raises `ToolchainMissingError` where there is no NVRTC."""
    _, major, minor = _nvrtc().nvrtcVersion()
    return f"{major}.{minor}"


def compile_cuda(
    name: str,
    files: Mapping[str, str],
    arch: Architecture,
    *,
    flags: Sequence[str] = (),
    includes: Sequence[str] = (),
) -> tuple[bytes, str, str]:
    """(cubin, PTX, log) of translation unit ``name`` among ``files``, whose other members it may include.

    Raises:
        CompileError: NVRTC refused it; has the log.
        UnsupportedError: this NVRTC makes no code for ``arch``.
        ToolchainMissingError: there is no NVRTC.
    """
    nvrtc = _nvrtc()
    known = {int(a) for a in _ok("nvrtcGetSupportedArchs", nvrtc.nvrtcGetSupportedArchs())}
    if arch.capability not in known:
        raise UnsupportedError(
            "this NVRTC makes no code for the architecture",
            got=arch.name,
            where=f"NVRTC {nvrtc_version()}",
            mend=f"it knows {', '.join(f'sm_{a}' for a in sorted(known))}",
        )
    headers = {n: t for n, t in files.items() if n != name and not n.endswith(".py")}
    program = _ok(
        "nvrtcCreateProgram",
        nvrtc.nvrtcCreateProgram(
            files[name].encode(),
            name.encode(),
            len(headers),
            [text.encode() for text in headers.values()],
            [header.encode() for header in headers],
        ),
    )
    folders = [f"-I{folder}" for folder in (*includes, *include_dirs())]
    options = [f"--gpu-architecture={arch.name}", *BASE_FLAGS, *folders, *flags]
    (code,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    log = _text(nvrtc, "ProgramLog", program)
    if int(code) != 0:
        raise CompileError(
            f"NVRTC cannot compile '{name}' for {arch.name}",
            log=log,
            got=getattr(code, "name", str(code)),
            where=name,
        )
    cubin = _bytes(nvrtc, "CUBIN", program)
    ptx = _text(nvrtc, "PTX", program)
    _ok("nvrtcDestroyProgram", nvrtc.nvrtcDestroyProgram(program))
    return cubin, ptx, log


def assemble(name: str, text: str, arch: Architecture, work: Path) -> tuple[bytes, str]:
    """(binary, log) of a PTX file: a cubin by ptxas, or the text itself where there is no ptxas, which the
    driver then assembles when it loads it.

    Raises:
        CompileError: ptxas refused it; has the log.
    """
    ptxas = find_tool("ptxas-blackwell" if arch.capability >= 100 else "ptxas") or find_tool("ptxas")
    if not ptxas:
        return text.encode() + b"\0", "no ptxas: the driver assembles this file when it is loaded"
    source, binary = work / "assembled.ptx", work / "assembled.cubin"
    source.write_text(text)
    command = [ptxas, "-v", f"--gpu-name={arch.name}", str(source), "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = (done.stdout + done.stderr).replace(str(source), name)
    if done.returncode != 0:
        raise CompileError(f"ptxas refuses '{name}' for {arch.name}", log=log, where=name)
    made = binary.read_bytes()
    source.unlink()
    binary.unlink()
    return made, log


def _ok(call: str, result: tuple[Any, ...]) -> Any:
    """What an NVRTC function returned beside its code."""
    code, *values = result
    if int(code) != 0:
        raise UnsupportedError(
            f"NVRTC refuses {call}", got=getattr(code, "name", str(code)), where=f"NVRTC {nvrtc_version()}"
        )
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values[1:])


def _bytes(nvrtc: Any, what: str, program: Any) -> bytes:
    size = _ok(f"nvrtcGet{what}Size", getattr(nvrtc, f"nvrtcGet{what}Size")(program))
    buffer = b" " * int(size)
    _ok(f"nvrtcGet{what}", getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer


def _text(nvrtc: Any, what: str, program: Any) -> str:
    return _bytes(nvrtc, what, program).rstrip(b"\0").decode(errors="replace").strip()

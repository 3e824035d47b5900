"""Triton kernels of a candidate to cubins, without a device: its host code is recorded on every layout of a
case, and each launch is compiled."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kevolve_core.builds import BuildCache
from kevolve_core.errors import CompileError
from kevolve_core.languages.triton import Launch, TritonTarget, compile_launch, launch_key, record
from kevolve_nvidia.architectures import Architecture
from kevolve_nvidia.binary import kernel_facts
from kevolve_nvidia.kernel_store import KernelStore
from kevolve_nvidia.signature import arguments_of
from kevolve_nvidia.triton_run import TRITON_FOLDER, kept_in

__all__ = ["build_triton", "recorded"]


def recorded(
    program: Callable[..., Any], signature: Mapping[str, Any], target: TritonTarget
) -> tuple[Launch, ...]:
    """Launches of ``program`` on every layout of a case, those of autotuners among them, each once.

    Raises:
        CompileError: the host code raises; has the error.
    """
    found: dict[str, Launch] = {}
    for row in signature["layouts"]:
        try:
            launches = record(program, arguments_of(row), target=target, keep_tuning=True)
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(
                "the candidate's host code fails when it is recorded",
                log=_log(error),
                got=f"{type(error).__name__}: {error}",
            ) from error
        for launch in launches:
            found.setdefault(launch_key(launch), launch)
    return tuple(found.values())


def build_triton(
    make: Callable[[], Callable[..., Any]],
    signature: Mapping[str, Any],
    arch: Architecture,
    properties: Mapping[str, Any],
    work: Path,
    kernels: BuildCache | None = None,
) -> dict[str, Any]:
    """Compile every kernel that the candidate launches into ``work / TRITON_FOLDER``.

    Args:
        make: gives the candidate's program; called with PyTorch's default device ``meta``.
        signature: see `kevolve_nvidia.signature.signature_of`.
        arch: for what.
        properties: see `kevolve_nvidia.triton_properties`.
        work: the artifact's folder.
        kernels: those of earlier candidates (see `KernelStore`).

    Returns:
        ``{"kernels": name -> facts, "launches": [...], "binaries": file -> path in work}``.

    Raises:
        CompileError: host code or a kernel is at fault; has the log.
    """
    target = TritonTarget("cuda", arch.capability, 32, properties)
    folder = work / TRITON_FOLDER
    folder.mkdir()
    with kept_in(folder):
        with torch.device("meta"):
            program = make()
        launches = recorded(program, signature, target)
        facts: dict[str, Any] = {"kernels": {}, "launches": [], "binaries": {}}
        # In an order of its own: candidates that are compiled side by side begin with different kernels.
        order = random.Random(work.name).sample(range(len(launches)), len(launches))
        made = {number: _compiled(launches[number], arch, work, kernels) for number in order}
        for number, launch in enumerate(launches):
            kernel, own = made[number]
            name = f"{launch.name}-{number}.cubin"
            (work / name).write_bytes(kernel.asm["cubin"])
            facts["binaries"][f"{launch.name}-{number}"] = name
            facts["launches"].append(
                {"kernel": launch.name, "grid": list(launch.grid), "tuning": launch.tuning}
                | {k: v for k, v in launch.options.items() if isinstance(v, (int, float, str, bool))}
            )
            for found in own.values():
                facts["kernels"][f"{launch.name}-{number}"] = found
    _check_limits(facts["kernels"], properties)
    return facts


def _compiled(
    launch: Launch, arch: Architecture, work: Path, kernels: BuildCache | None
) -> tuple[Any, Mapping[str, Any]]:
    """A launch's kernel, and facts by the kernel's name."""

    def look(kernel: Any, cubin: Path) -> Mapping[str, Any]:
        meta = kernel.metadata
        return kernel_facts(
            cubin, arch, threads={meta.name: 32 * meta.num_warps}, shared={meta.name: meta.shared},
            ptx=kernel.asm["ptx"],
        )  # fmt: skip

    if kernels is not None:
        return KernelStore(kernels).compiled(launch, look)
    kernel = compile_launch(launch)
    cubin = work / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    found = look(kernel, cubin)
    cubin.unlink()
    return kernel, found


def _check_limits(kernels: Mapping[str, Mapping[str, Any]], properties: Mapping[str, Any]) -> None:
    most = properties["max_shared_mem"]
    for name, facts in kernels.items():
        if facts.get("shared_bytes", 0) > most:
            raise CompileError(
                f"kernel '{name}' needs more shared memory than a block may have",
                log=f"{facts['shared_bytes']} bytes of at most {most}: smaller tiles, or fewer stages",
                got=f"{facts['shared_bytes']} bytes",
                where=name,
            )


def _log(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))[-4000:]

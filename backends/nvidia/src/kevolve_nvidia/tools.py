"""CUDA's command-line tools, from wherever there are any: PATH, the CUDA toolkit, Triton's wheel."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["find_tool", "include_dirs", "run_tool"]

_TIMEOUT_S = 60


@functools.cache
def find_tool(name: str) -> str:
    """Path of ``ptxas``, ``cuobjdump``, ``nvdisasm`` or ``ncu``; "" where there is none."""
    folders = [os.path.join(root, "bin") for root in _toolkits()]
    folders.append(str(_triton() / "bin"))
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders)) or ""


def include_dirs() -> tuple[str, ...]:
    """Folders with CUDA's headers: the wheels nvidia-cuda-runtime and nvidia-cuda-crt, a toolkit, Triton's
    copy; the first that has ``cuda_fp16.h``, with its ``cccl`` where that is beside it."""
    found = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in (found.submodule_search_locations or ())] if found else []
    folders = [folder for root in roots for folder in sorted(root.glob("*/include"), reverse=True)]
    folders += [Path(root, "include") for root in _toolkits()]
    folders.append(_triton() / "include")
    for folder in folders:
        if (folder / "cuda_fp16.h").exists():
            beside = folder / "cccl"
            return (str(folder), str(beside)) if beside.is_dir() else (str(folder),)
    return ()


def run_tool(name: str, *arguments: str) -> str:
    """What a tool prints; "" where it is missing, fails or does not end. Its output is extra knowledge:
    nothing depends on it."""
    path = find_tool(name)
    if not path:
        return ""
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _toolkits() -> list[str]:
    return [p for p in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda") if p]


def _triton() -> Path:
    found = importlib.util.find_spec("triton")
    root = Path(found.origin).parent if found and found.origin else Path("/nonexistent")
    return root / "backends" / "nvidia"

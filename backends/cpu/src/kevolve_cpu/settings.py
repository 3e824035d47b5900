"""What a user may set for this backend, and where it keeps files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from kevolve_core.errors import ConfigError, suggest

__all__ = ["OPTIONS_SCHEMA", "Settings", "available_cpus", "user_cache"]

#: JSON Schema of ``[plugins.cpu.options]``.
OPTIONS_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "compiler": {
            "type": "string",
            "description": "C++ compiler, a name on PATH or a path; default: $CXX, then g++, then clang++",
        },
        "flags": {
            "type": "array",
            "items": {"type": "string"},
            "description": "compiler flags after the backend's own, so they win",
        },
        "threads": {
            "type": "integer",
            "minimum": 1,
            "description": "threads of candidates and baselines; default: the CPUs this process may use",
        },
        "cache_dir": {
            "type": "string",
            "description": "compile and measurement cache; default: kevolve/cpu in the user's cache folder",
        },
        "cache_bytes": {
            "type": "integer",
            "minimum": 0,
            "description": "size above which the compile cache drops what was not used lately; default 2 GiB",
        },
        "compile_timeout_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "wall time one candidate may take to compile; default 60",
        },
        "compile_memory_bytes": {
            "type": "integer",
            "minimum": 1 << 28,
            "description": "address space of one compiler process; default 8 GiB",
        },
    },
}


def user_cache() -> Path:
    """``$XDG_CACHE_HOME/kevolve`` or ``~/.cache/kevolve`` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kevolve"


def available_cpus() -> int:
    """CPUs this process may use at once: its affinity mask, cut to the cgroup's quota, at least 1."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return max(1, min(cpus, int(quota + 0.5))) if quota else cpus


def _cgroup_quota() -> float | None:
    """CPUs' worth of time the cgroup grants (v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``), None if unlimited."""
    for relative in (*_own_cgroups(), ""):
        for quota_file, period_file in (
            (f"/sys/fs/cgroup{relative}/cpu.max", ""),
            (f"/sys/fs/cgroup/cpu{relative}/cpu.cfs_quota_us", "cpu.cfs_period_us"),
        ):
            path = Path(quota_file)
            try:
                words = path.read_text().split()
                if period_file:
                    words.append((path.parent / period_file).read_text().strip())
                if words[0] not in ("max", "-1"):
                    return float(words[0]) / float(words[1])
            except (OSError, ValueError, IndexError):
                continue  # that cgroup version is not mounted: the next place is asked
    return None


def _own_cgroups() -> tuple[str, ...]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ()
    parts = [line.split(":", 2) for line in lines]
    return tuple(p[2].rstrip("/") for p in parts if len(p) == 3 and (not p[1] or "cpu" in p[1].split(",")))


@frozen
class Settings:
    """The options of ``plugins.toml`` with their defaults filled in."""

    compiler: str = ""
    flags: tuple[str, ...] = ()
    threads: int = 0
    cache_dir: str = ""
    cache_bytes: int = 2 << 30
    compile_timeout_s: float = 60.0
    compile_memory_bytes: int = 8 << 30

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Settings:
        """Settings from an options mapping. Raises `ConfigError` for an unknown key; types are checked
        against `OPTIONS_SCHEMA` by the registry before."""
        known = OPTIONS_SCHEMA["properties"]
        for key in options:
            if key not in known:
                raise ConfigError(
                    "unknown option of the cpu backend",
                    got=key,
                    where="plugins.cpu.options",
                    mend=suggest(key, known) or f"known options: {', '.join(sorted(known))}",
                )
        values = dict(options)
        values["flags"] = tuple(values.get("flags", ()))
        return cls(**values)

    @property
    def thread_count(self) -> int:
        return self.threads or available_cpus()

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir).expanduser() if self.cache_dir else user_cache() / "cpu"

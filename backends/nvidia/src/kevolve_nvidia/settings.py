"""What a user may set for this backend, and where it keeps files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from kevolve_core.errors import ConfigError, suggest
from kevolve_nvidia.architectures import architecture

__all__ = ["OPTIONS_SCHEMA", "Settings", "user_cache"]

#: JSON Schema of ``[plugins.nvidia.options]``.
OPTIONS_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "compile_for": {
            "type": "array",
            "items": {"type": "string", "pattern": "^sm_[0-9]+[af]?$"},
            "description": "architectures to compile for without a GPU (sm_80, sm_90a); each "
            "becomes a device that cannot run",
        },
        "nvrtc_flags": {
            "type": "array",
            "items": {"type": "string"},
            "description": "NVRTC options after the backend's own, so they win",
        },
        "include_dirs": {
            "type": "array",
            "items": {"type": "string"},
            "description": "header folders for CUDA C++ beside those that are found",
        },
        "cache_dir": {
            "type": "string",
            "description": "compile and measurement cache; default: kevolve/nvidia in the cache folder",
        },
        "cache_bytes": {
            "type": "integer",
            "minimum": 0,
            "description": "size above which the compile cache drops what was not used lately; 8 GiB",
        },
        "compile_timeout_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "wall time one candidate may take to compile on one case; default 240",
        },
        "compile_workers": {
            "type": "integer",
            "minimum": 1,
            "description": "processes that compile; default: the CPUs this process may use, at most 16",
        },
        "queue_ahead_us": {
            "type": "number",
            "minimum": 0,
            "description": "how long the device is held before a timed call, so that launches queue up "
            "behind it and the host's launch time is not in the result; 0: host and device; default 3000",
        },
    },
}


def user_cache() -> Path:
    """``$XDG_CACHE_HOME/kevolve`` or ``~/.cache/kevolve`` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kevolve"


@frozen
class Settings:
    """The options of ``plugins.toml`` with their defaults filled in."""

    compile_for: tuple[str, ...] = ()
    nvrtc_flags: tuple[str, ...] = ()
    include_dirs: tuple[str, ...] = ()
    cache_dir: str = ""
    cache_bytes: int = 8 << 30
    compile_timeout_s: float = 240.0
    compile_workers: int = 0
    queue_ahead_us: float = 3000.0

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Settings:
        """Settings from an options mapping.

        Raises:
            ConfigError: an unknown key, or an architecture this backend does not know. Types are checked
                against `OPTIONS_SCHEMA` by the registry before.
        """
        known = OPTIONS_SCHEMA["properties"]
        for key in options:
            if key not in known:
                raise ConfigError(
                    "unknown option of the nvidia backend",
                    got=key,
                    where="plugins.nvidia.options",
                    mend=suggest(key, known) or f"known options: {', '.join(sorted(known))}",
                )
        values = dict(options)
        for key in ("compile_for", "nvrtc_flags", "include_dirs"):
            values[key] = tuple(values.get(key, ()))
        for name in values["compile_for"]:
            architecture(name)
        return cls(**values)

    @property
    def workers(self) -> int:
        return self.compile_workers or min(16, len(os.sched_getaffinity(0)))

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir).expanduser() if self.cache_dir else user_cache() / "nvidia"

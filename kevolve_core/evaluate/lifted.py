"""What a backend's grants lift for its workers: from the words of ``plugins.toml`` to processes."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from kevolve_core.interfaces import BackendRef
from kevolve_core.registry.needs import Needs, parse_grants

__all__ = ["Lifted"]

#: Launches that one request of a worker may make, each of which may wait in the queue; `estimated`.
_LAUNCHES = 4

#: What any program may write to.
_HARMLESS = ("/dev/null", "/dev/zero", "/dev/tty")


@frozen
class Lifted:
    """The grants of one backend, as the session that starts its workers applies them."""

    grants: Needs

    @classmethod
    def of(cls, ref: BackendRef) -> Lifted:
        """What ``ref`` carries."""
        return cls(parse_grants(ref.grants, f"grants of backend '{ref.backend}'"))

    @property
    def opened(self) -> list[str]:
        """Groups of system calls that the worker's filter lets through."""
        write = bool(self.grants.paths or self.grants.devices)
        return [name for name, open_ in (("network", bool(self.grants.network)), ("write", write)) if open_]

    @property
    def queue_seconds(self) -> float:
        """What waiting for the device may add to the time limit of one request."""
        return _LAUNCHES * self.grants.queue

    def environment(self) -> dict[str, str]:
        """The granted variables, where the user's environment has them."""
        return {name: os.environ[name] for name in self.grants.environment if name in os.environ}

    def boundary(self, workdir: Path) -> Mapping[str, Any] | None:
        """Arguments of `kevolve_core.isolate.landlock.narrow`, or None where nothing is opened. Folders that
        are not there yet are made, so that a library's first use finds its own."""
        if not self.opened:
            return None
        write: list[str] | None = None
        if "write" in self.opened:
            write = [str(workdir), *_HARMLESS]
            for path in self.grants.paths:
                folder = Path(path).expanduser()
                with contextlib.suppress(OSError):
                    folder.mkdir(parents=True, exist_ok=True)
                write.append(str(folder))
            write += [node for pattern in self.grants.devices for node in sorted(glob.glob(pattern))]
        ports = [each.rpartition(":")[2] for each in self.grants.network]
        narrow_ports = bool(ports) and all(port.isdigit() for port in ports)
        return {"write": write, "ports": sorted({int(p) for p in ports}) if narrow_ports else None}

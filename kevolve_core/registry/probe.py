"""Looking at a plugin from a subprocess, where it may crash or hang, and remembering what was seen."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from kevolve_core.errors import PluginError
from kevolve_core.interfaces import API_VERSION, Manifest
from kevolve_core.model import Device, content_hash, freeze
from kevolve_core.registry.compat import core_version
from kevolve_core.registry.faults import death_fault, hang_fault
from kevolve_core.registry.source import PluginSource
from kevolve_core.registry.status import Fault
from kevolve_core.serial import from_plain, to_plain

__all__ = ["PROBE_SECONDS", "BackendReport", "ProbeCache", "ProbeReport", "probe"]

#: Time for importing, registering and probing one plugin. A cold import of a large framework takes some ten
#: seconds on a busy machine (estimated).
PROBE_SECONDS = 30.0

#: Changes when the layout of a cached report does.
_LAYOUT = 1

#: A report is good for a day: a driver or a library that is exchanged leaves no other trace (estimated).
_CACHE_SECONDS = 24 * 3600

_BOOT = (
    "import json, sys; request = json.load(open(sys.argv[1])); sys.path[:] = request['sys_path'];"
    "from kevolve_core.registry.child import main; main(request, sys.argv[2])"
)


@frozen
class BackendReport:
    """One backend as its probe saw it."""

    manifest: Manifest
    devices: tuple[Device, ...] = ()
    fault: Fault | None = None


@frozen
class ProbeReport:
    """One plugin as its probe saw it. With a ``fault`` it must not be imported in this process."""

    fault: Fault | None = None
    backends: Mapping[str, BackendReport] = field(factory=dict, converter=freeze, hash=False)
    provides: Mapping[str, tuple[str, ...]] = field(factory=dict, converter=freeze, hash=False)
    hooks: tuple[str, ...] = ()


def probe(
    source: PluginSource,
    name: str,
    options: Mapping[str, Any],
    options_where: str,
    seconds: float,
    cancelled: threading.Event,
) -> ProbeReport:
    """Import, register and probe a plugin in a subprocess. Never raises for what the plugin does.

    Raises:
        PluginError: there is no interpreter to start, or ``cancelled`` was set meanwhile.
        OSError: no process or temporary file can be made.
    """
    request = {
        "sys_path": sys.path,
        "source": str(source),
        "name": name,
        "options": dict(options),
        "options_where": options_where,
    }
    report = ProbeReport()
    failed: dict[str, Fault] = {}
    while True:  # once more for every backend whose probe took the process down
        seen, fatal, backend = _run({**request, "skip": sorted(failed)}, seconds, cancelled)
        if fatal is None or not backend:
            report = evolve(seen, fault=seen.fault or fatal)
            break
        failed[backend] = fatal
    backends = {
        key: evolve(each, fault=failed[key]) if key in failed else each
        for key, each in report.backends.items()
    }
    return evolve(report, backends=backends)


def _run(
    request: Mapping[str, Any], seconds: float, cancelled: threading.Event
) -> tuple[ProbeReport, Fault | None, str]:
    """(what was seen, how the process died, the backend it was busy with)."""
    if not sys.executable:
        raise PluginError(
            "plugins are probed in a subprocess, and this process knows no Python interpreter",
            where="sys.executable",
            mend="set sys.executable, or register an object that is not importable (probed in this process)",
        )
    with tempfile.TemporaryDirectory(prefix="kevolve-probe-", ignore_cleanup_errors=True) as folder:
        asked, answered, printed = (Path(folder, n) for n in ("request.json", "report.jsonl", "output"))
        asked.write_text(json.dumps(request))
        answered.touch()
        with printed.open("wb") as output:
            # A process group of its own, so that what a plugin starts is stopped with it.
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(asked), str(answered)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = _wait(child, seconds, cancelled)
            finally:
                if child.returncode is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        return _read(answered.read_text(), code, printed.read_text(errors="replace"), seconds)


def _wait(child: subprocess.Popen[bytes], seconds: float, cancelled: threading.Event) -> int | None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if cancelled.is_set():
            raise PluginError("the probe was cancelled")
        try:
            return child.wait(min(left, 0.2))
        except subprocess.TimeoutExpired:
            continue
    return None


def _read(text: str, code: int | None, printed: str, seconds: float) -> tuple[ProbeReport, Fault | None, str]:
    said: dict[str, Any] = {}
    devices: dict[str, Any] = {}
    doing, backend, done = "starting Python", "", False
    # A process that dies while it writes leaves half a line behind.
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        message = json.loads(line)
        done = message.pop("done", done)
        doing, backend = message.pop("doing", doing), message.pop("busy", backend)
        devices |= message.pop("probed", {})
        said |= message
    backends = {
        key: from_plain(BackendReport, {"manifest": manifest, **devices.get(key, {})})
        for key, manifest in said.get("manifests", {}).items()
    }
    report = ProbeReport(
        fault=from_plain(Fault, said["fault"]) if "fault" in said else None,
        backends=backends,
        provides={kind: tuple(names) for kind, names in said.get("provides", {}).items()},
        hooks=tuple(said.get("hooks", ())),
    )
    if done:
        return report, None, ""
    fatal = hang_fault(seconds, doing, printed) if code is None else death_fault(code, doing, printed)
    return report, fatal, backend


class ProbeCache:
    """Reports of earlier probes, one JSON file each. A folder that cannot be written is no cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(source: PluginSource, distribution: str, version: str, options: Mapping[str, Any]) -> str:
        """Names all that a probe's result depends on and that can be known without running it."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") or name.endswith("_VISIBLE_DEVICES")
        }
        return content_hash(
            {
                "layout": _LAYOUT,
                "core": [core_version(), *API_VERSION],
                "python": [sys.version, sys.prefix],
                "source": [str(source), source.fingerprint()],
                "distribution": [distribution, version],
                "options": dict(options),
                "host": [platform.node(), sorted(os.sched_getaffinity(0))],
                "environment": environment,
            }
        )

    def get(self, key: str) -> ProbeReport | None:
        try:
            if time.time() - self._file(key).stat().st_mtime > _CACHE_SECONDS:
                return None
            return from_plain(ProbeReport, json.loads(self._file(key).read_text()))
        except FileNotFoundError:
            return None
        except Exception:  # a damaged entry (cattrs raises groups) is worth a new probe and nothing more
            return None

    def put(self, key: str, report: ProbeReport) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder)
            with os.fdopen(handle, "w") as file:
                json.dump(to_plain(report), file)
            os.replace(name, self._file(key))
            for old in self.folder.iterdir():
                if time.time() - old.stat().st_mtime > _CACHE_SECONDS:
                    old.unlink(missing_ok=True)
        except OSError:
            return  # a read-only or full home: the next process probes again

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"

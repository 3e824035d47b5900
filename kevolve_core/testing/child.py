"""Small programs in a fresh Python process: what the kit lets a plugin do where it may hang or crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

__all__ = ["Ended", "bare_environment", "run_child"]

_BOOT = "import json, sys; request = json.load(open(sys.argv[1])); sys.path[:] = request.pop('sys_path');"


@frozen
class Ended:
    """How a child ended: its answer (None where it gave none), why it gave none, and what it printed."""

    answer: Any = None
    fault: str = ""
    printed: str = ""


def run_child(
    program: str, request: Mapping[str, Any], seconds: float, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run ``program``, which has ``request`` (a dict) and sets ``answer`` (a JSON value), in a fresh process
    of its own group, which is killed as a whole at the end.

    Args:
        environment: in place of this process's.
    """
    with tempfile.TemporaryDirectory(prefix="kevolve-check-", ignore_cleanup_errors=True) as folder:
        asked, said = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps({**request, "sys_path": [p for p in sys.path if p]}))
        text = f"{_BOOT}\n{program}\njson.dump(answer, open(sys.argv[2], 'w'))\n"
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", text, str(asked), str(said)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=folder,
            start_new_session=True,
        )
        try:
            out, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(child)
            out, _ = child.communicate()
            return Ended(fault=f"did not end within {seconds:g} s", printed=_tail(out))
        finally:
            _end(child)
        if child.returncode < 0:
            return Ended(fault=f"was killed by {signal.Signals(-child.returncode).name}", printed=_tail(out))
        if child.returncode or not said.exists():
            return Ended(fault=f"ended with exit code {child.returncode}", printed=_tail(out))
        return Ended(answer=json.loads(said.read_text()), printed=_tail(out))


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(out: bytes) -> str:
    return out.decode(errors="replace").strip()[-2000:]


def bare_environment(home: str) -> dict[str, str]:
    """An environment in which no tool is found and no device is named: as on a build machine."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    return {
        **kept,
        "PATH": "",
        "HOME": home,
        "TMPDIR": home,
        "XDG_CACHE_HOME": home,
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HIP_VISIBLE_DEVICES": "",
    }

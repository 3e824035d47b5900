"""The probe's subprocess: imports one plugin, registers it, probes its backends, and reports each step.

Started by `kevolve_core.registry.probe`. Every step is announced before it is taken, so that the parent knows
what killed the process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
from collections.abc import Mapping
from typing import Any, TextIO

from kevolve_core.registry.faults import exception_fault
from kevolve_core.registry.hooks import hook_names
from kevolve_core.registry.local import probe_backend
from kevolve_core.registry.registry import stage
from kevolve_core.registry.source import PluginSource
from kevolve_core.serial import to_plain

__all__ = ["main"]


def main(request: Mapping[str, Any], answer: str) -> None:
    """Answer ``request`` with lines of JSON in the file ``answer``, and end the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    with open(answer, "a", buffering=1) as out:
        _answer(request, out)
        _say(out, done=True)
    # Not sys.exit: a driver that hangs when it is torn down has nothing left to tell.
    os._exit(0)


def _say(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _answer(request: Mapping[str, Any], out: TextIO) -> None:
    doing = "importing it"
    try:
        _say(out, doing=doing)
        plugin = PluginSource.parse(request["source"]).load()
        doing = "registering it"
        _say(out, doing=doing)
        added = stage(plugin, request["name"])
        _say(
            out,
            provides=added.provides(),
            hooks=hook_names(plugin, request["name"]),
            manifests={name: to_plain(manifest) for name, manifest in added.manifests.items()},
        )
    except BaseException as error:  # SystemExit too: the plugin must not decide how the probe ends
        _say(out, fault=to_plain(exception_fault(error, doing)))
        return
    for name, manifest in added.manifests.items():
        if name not in request["skip"]:
            _say(out, doing=f"probing backend '{name}'", busy=name)
            factory = added.items["backend"][name]
            devices, fault = probe_backend(manifest, factory, request["options"], request["options_where"])
            _say(out, probed={name: {"devices": to_plain(devices), "fault": to_plain(fault)}}, busy="")

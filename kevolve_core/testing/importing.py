"""The plugin module imports and registers without the vendor's libraries, and starts nothing on the way."""

from __future__ import annotations

from kevolve_core.testing.checks import Check, fail
from kevolve_core.testing.child import run_child
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

#: Modules a plugin may import at its top: the core's own requirements but torch, which takes seconds.
_ALLOWED = (
    "kevolve_core", "attr", "attrs", "cattr", "cattrs", "click", "fsspec", "httpx", "jsonschema", "numpy",
    "packaging", "pluggy", "yaml", "rich", "sqlalchemy", "typing_extensions",
)  # fmt: skip

_PROGRAM = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path
import kevolve_core.registry
from kevolve_core.registry.registry import stage
from kevolve_core.registry.source import PluginSource

source = PluginSource.parse(request["source"])
own = source.module.partition(".")[0]
folder = source.folder or (str(Path(source.file).parent) if source.file else "")
before = {name.partition(".")[0] for name in sys.modules}
tried, opened, started = [], [], []

def open_to_all(top):
    return top in before or top in sys.stdlib_module_names or top in request["allowed"]

def importer():
    # Who imports: the standard library, too, tries modules that are not there.
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib"):
        frame = frame.f_back
    return "" if frame is None else frame.f_globals.get("__name__", "")

class Gate:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if open_to_all(top) or top == own or top.startswith(("kevolve_", "_kevolve_plugin_")):
            return None
        if folder and PathFinder.find_spec(top, [folder]) is not None:
            return None
        if open_to_all(importer().partition(".")[0]):
            return None
        tried.append(name)
        raise ModuleNotFoundError(f"No module named {name!r} (hidden by the conformance kit)", name=name)

def hook(event, arguments):
    if event == "ctypes.dlopen" and arguments[0]:
        opened.append(str(arguments[0]))
    elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "socket.connect"):
        started.append(f"{event} {arguments[0]!r}"[:120])

sys.meta_path.insert(0, Gate())
sys.addaudithook(hook)
error = ""
try:
    added = stage(source.load(), request["name"])
    names = sorted(added.manifests)
except BaseException as failure:
    error, names = f"{type(failure).__name__}: {failure}", []
answer = {"tried": sorted(set(tried)), "opened": opened, "started": started, "error": error, "names": names}
"""


def clean(subject: Subject) -> None:
    """The plugin imports and registers without any library of the vendor's."""
    request = {"source": subject.ref.plugin, "name": subject.name, "allowed": list(_ALLOWED)}
    ended = run_child(_PROGRAM, request, subject.probe_seconds)
    lazily = (
        "import it inside the factory or the method that needs it; the module must import where it is missing"
    )
    if ended.fault:
        raise fail(
            "the plugin's module to import in a fresh process",
            got=f"the process {ended.fault}" + (f"\n{ended.printed}" if ended.printed else ""),
            where=subject.ref.plugin,
            mend=lazily,
        )
    found = ended.answer
    if found["tried"]:
        raise fail(
            "an import of the plugin that needs the standard library and Kevolve's own requirements alone",
            got=f"it imports {', '.join(found['tried'])}",
            where=subject.ref.plugin,
            mend=lazily,
        )
    if found["error"]:
        raise fail(
            "the plugin to import and register", got=found["error"], where=subject.ref.plugin, mend=lazily
        )
    if found["opened"]:
        raise fail(
            "an import of the plugin that loads no shared library",
            got=f"it opens {', '.join(found['opened'])}",
            where=subject.ref.plugin,
            mend=lazily.replace("import it", "open it"),
        )
    if found["started"]:
        raise fail(
            "an import of the plugin that starts nothing",
            got=found["started"][0],
            where=subject.ref.plugin,
            mend="do it in probe(), or when a part of the backend is first used",
        )
    if subject.name not in found["names"]:
        raise fail(
            f"the plugin to register a backend '{subject.name}'",
            got=", ".join(found["names"]) or "no backend",
            where=subject.ref.plugin,
            mend="registry.add_backend(MANIFEST, factory) in kevolve_register, whatever the machine has",
        )


CHECKS = (Check("import.clean", clean, (0,)),)

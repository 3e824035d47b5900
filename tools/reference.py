"""Writes the pages of docs/reference that are made from the code.

python tools/reference.py            # writes them
python tools/reference.py --check    # exit code 1 where one is not what the code says now
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from kevolve_core import interfaces
from kevolve_core.interfaces import API_VERSION, CAPABILITIES, Manifest
from kevolve_core.registry import Registry, hookspecs
from kevolve_core.testing.suite import all_checks

__all__ = ["main", "pages"]

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
_NOTE = "<!-- Made by tools/reference.py from the code: change the docstrings there and run it. -->\n\n"
_PROTOCOLS = (
    "Backend",
    "Compiler",
    "Runner",
    "Profiler",
    "Renderer",
    "CodeGenerator",
    "SelectionPolicy",
    "Executor",
)
_HELPERS = (
    ("builds", "BuildCache"),
    ("roofline", "Ceilings"),
    ("roofline", "RooflineProfiler"),
    ("ir", "Subset"),
    ("ir", "linear"),
    ("hosting", "HostedRunner"),
    ("hosting", "host_plan"),
)
_CLASSES = ("Manifest", "Baseline", "Work", "Proposal", "EvaluationRequest")


def pages() -> Mapping[str, str]:
    """File name -> text."""
    return {"hooks.md": _hooks(), "capabilities.md": _capabilities(), "checks.md": _checks()}


def _hooks() -> str:
    parts = [
        "# Hooks and interfaces",
        f"Plugin API {API_VERSION[0]}.{API_VERSION[1]}, entry-point group `{hookspecs.ENTRY_POINT_GROUP}`.",
        "## Hooks",
        "A plugin is a module that implements some of these with `@kevolve_core.registry.hookimpl`.",
    ]
    for name, function in _functions(hookspecs):
        options = getattr(function, f"{hookspecs.PROJECT}_spec")
        kind = " The first answer that is not None ends it." if options["firstresult"] else ""
        parts += [f"### `{name}`", _code(_signature(hookspecs, name)), _prose(function) + kind]
    parts += ["## What `kevolve_register` may add", "Methods of the `Registry` that the hook is given."]
    for name, function in vars(Registry).items():
        if name.startswith("add_"):
            parts += [
                f"### `registry.{name}`",
                _code(_method("kevolve_core.registry.registry", "Registry", name)),
            ]
            parts.append(_prose(function))
    parts += [
        "## Interfaces",
        "Protocols of `kevolve_core.interfaces`: what the parts of a backend answer to.",
    ]
    for name in _PROTOCOLS:
        parts += [f"### `{name}`", _prose(getattr(interfaces, name)), *_members(name)]
    parts += [
        "## Helpers",
        "What several backends share. Nothing obliges you to use it, and the compatibility policy covers it.",
    ]
    for module, name in _HELPERS:
        parts += [f"### `{module}.{name}`", _prose(getattr(import_module(f"kevolve_core.{module}"), name))]
    parts += ["## What they exchange"]
    for name in _CLASSES:
        parts += [f"### `{name}`", _prose(getattr(interfaces, name))]
    return _NOTE + "\n\n".join(part for part in parts if part) + "\n"


def _capabilities() -> str:
    needed = {name: sum(name in c.capabilities for c in all_checks()) for name in CAPABILITIES}
    manifests = list(_manifests())
    head = [
        "capability",
        "what declaring it promises",
        "checks that ask for it",
        *(f"`{m.name}`" for m in manifests),
    ]
    rows = [
        [
            f"`{name}`",
            text,
            f"[{needed[name]}](checks.md)" if needed[name] else "–",
            *("yes" if name in m.capabilities else "–" for m in manifests),
        ]
        for name, text in CAPABILITIES.items()
    ]
    facts = [
        ("evidence", [m.evidence for m in manifests]),
        ("languages", [", ".join(m.languages) for m in manifests]),
        ("API", [f"{m.api_version[0]}.{m.api_version[1]}" for m in manifests]),
    ]
    rows += [[f"*{name}*", "", "", *values] for name, values in facts]
    intro = (
        "# Capabilities\n\nA manifest declares what its backend can do; the probe of a device may take away "
        "from it. What is not declared is never asked for, and calling it all the same raises "
        "`UndeclaredCapabilityError`. The backends are those of this repository."
    )
    return _NOTE + intro + "\n\n" + _table(head, rows)


def _checks() -> str:
    rows = [
        [
            f"`{check.id}`",
            ", ".join(map(str, check.tiers)),
            ", ".join(f"`{name}`" for name in sorted(check.capabilities)) or "–",
            check.title,
        ]
        for check in all_checks()
    ]
    intro = (
        "# Conformance checks\n\nIn the order in which they run. Tier 0 needs no hardware, 1 runs on a "
        "simulator, 2 on a device; a check is skipped where the device does not declare what it needs."
    )
    return _NOTE + intro + "\n\n" + _table(["check", "tiers", "needs", "what it asks"], rows)


def _manifests() -> Iterator[Manifest]:
    """Of every backend in the repository, by its entry points."""
    for project in sorted(ROOT.glob("backends/*/pyproject.toml")):
        points = tomllib.loads(project.read_text())["project"].get("entry-points", {})
        for module in points.get(hookspecs.ENTRY_POINT_GROUP, {}).values():
            source = str(project.parent / "src")
            if source not in sys.path:
                sys.path.insert(0, source)
            registry = Registry()
            registry.register(import_module(module.partition(":")[0]), name=project.parent.name)
            yield from (registry.manifest(name) for name in registry.names("backend"))


def _functions(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield name, value


def _signature(module: ModuleType, name: str) -> str:
    tree = ast.parse(inspect.getsource(module))
    return next(_head(n) for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)


def _method(module: str, class_: str, name: str) -> str:
    return next(
        _head(n) for n in _class(import_module(module), class_).body if getattr(n, "name", "") == name
    )


def _class(module: ModuleType, name: str) -> ast.ClassDef:
    tree = ast.parse(inspect.getsource(module))
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def _members(name: str) -> Iterator[str]:
    for node in _class(interfaces, name).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _code(_head(node))
            yield _text(ast.get_docstring(node) or "")
        elif isinstance(node, ast.AnnAssign):
            yield _code(ast.unparse(node))


def _head(node: ast.stmt) -> str:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    gives = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    given = ast.unparse(node.args)
    line = f"{word} {node.name}({given}){gives}"
    if len(line) > 90:
        line = f"{word} {node.name}(\n    {given.replace(', ', chr(44) + chr(10) + '    ')}\n){gives}"
    return line


def _prose(thing: object) -> str:
    return _text(inspect.getdoc(thing) or "")


def _text(docstring: str) -> str:
    """A docstring as Markdown: sections become lists."""
    lines: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            lines += ["", f"*{line}*", ""]
            inside = True
        elif not inside or not line.strip():
            lines.append(line)
            inside = inside and bool(line.strip())
        elif line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(": ")
            lines.append(
                f"- `{name}`: {rest}" if colon and " " not in name.replace(", ", "") else f"- {line.strip()}"
            )
        else:
            lines.append(f"  {line.strip()}")
    return "\n".join(lines).strip()


def _code(text: str) -> str:
    return f"```python\n{textwrap.dedent(text)}\n```"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines) + "\n"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 where a page is not current"
    )
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    stale = [
        name
        for name, text in pages().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]
    for name in stale:
        if not check:
            (FOLDER / name).write_text(pages()[name], encoding="utf-8")
        print(f"{'not current' if check else 'wrote'}: docs/reference/{name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the manifest and the backend's parts declare, and that nothing undeclared answers."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kevolve_core import syntax
from kevolve_core.errors import KevolveError, UndeclaredCapabilityError, UnsupportedError
from kevolve_core.interfaces import API_VERSION, CAPABILITIES, Baseline, Manifest
from kevolve_core.model import Evidence
from kevolve_core.registry.compat import check_api, check_options
from kevolve_core.testing.checks import Check, fail
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_KINDS = ("eager", "compiled", "vendor", "kernel")


def manifest(subject: Subject) -> None:
    """The manifest is well formed: names, API version, capabilities, evidence, options schema, needs."""
    m = subject.manifest
    where = "Manifest"
    if not isinstance(m, Manifest):
        raise fail("backend.manifest to be a Manifest", got=type(m).__name__, mend="Manifest(name=…, …)")
    if m.name != subject.name:
        raise fail(
            f"the backend's manifest to have the name it is registered by, '{subject.name}'",
            got=m.name,
            where=where,
            mend="register the same manifest that the backend returns",
        )
    check_api(m)
    if unknown := m.capabilities - set(CAPABILITIES):
        raise fail(
            f"capabilities from {', '.join(sorted(CAPABILITIES))}",
            got=", ".join(sorted(unknown)),
            where=f"{where}.capabilities",
            mend=f"leave it out; plugin API {API_VERSION[0]}.{API_VERSION[1]} has no such capability",
        )
    if m.evidence not in set(Evidence):
        raise fail(
            f"evidence from {', '.join(Evidence)}",
            got=m.evidence,
            where=f"{where}.evidence",
            mend="say how the times are obtained; 'measured' is for what ran on the named device",
        )
    if "compile" in m.capabilities and not m.languages:
        raise fail("a language for the capability 'compile'", got="none", where=where, mend="languages=(…,)")
    for needed, by in (("run", "time"), ("compile", "synth"), ("time", "profile")):
        if by in m.capabilities and needed not in m.capabilities:
            raise fail(
                f"'{needed}' among the capabilities, since '{by}' is",
                got=", ".join(sorted(m.capabilities)),
                where=f"{where}.capabilities",
                mend=f"declare '{needed}' too, or leave '{by}' out",
            )
    check_options(m, subject.ref.options, "options")
    _is_json(m.needs, f"{where}.needs")
    _is_json(m.options_schema, f"{where}.options_schema")
    for name, value in m.worker_environment.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise fail(
                "environment variables to be strings",
                got=f"{name!r}: {value!r}",
                where=f"{where}.worker_environment",
                mend="write str(value)",
            )


def _is_json(value: Mapping[str, Any], where: str) -> None:
    try:
        json.dumps(value, default=dict, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise fail(
            "JSON values", got=error, where=where, mend="use strings, numbers, lists and dicts"
        ) from error


def undeclared(subject: Subject) -> None:
    """A part whose capability is not declared raises UndeclaredCapabilityError; a declared one is there."""
    backend, device = subject.backend, subject.device
    parts: Sequence[tuple[str, str, Callable[[], Any]]] = (
        ("compile", "compiler(device)", lambda: backend.compiler(device)),
        ("run", "runner(device)", lambda: backend.runner(device)),
        ("profile", "profiler(device)", lambda: backend.profiler(device)),
        ("synth", "renderers()", backend.renderers),
    )
    for capability, part, make in parts:
        declared = capability in subject.manifest.capabilities
        if declared and part in ("runner(device)", "profiler(device)") and not subject.found:
            continue  # a described device has no hardware to open
        try:
            made, raised = make(), False
        except UndeclaredCapabilityError:
            made, raised = None, True
        if declared and (raised or not made):
            raise fail(
                f"{part}, since the manifest declares '{capability}'",
                got="UndeclaredCapabilityError" if raised else repr(made),
                mend=f"return the part, or leave '{capability}' out of the capabilities",
            )
        if not declared and made:
            raise fail(
                f"{part} to raise UndeclaredCapabilityError (or to return nothing), since the manifest does "
                f"not "
                f"declare '{capability}'",
                got=f"a {type(made).__name__}",
                mend=f"call kevolve_core.registry.require(manifest, '{capability}') first, or declare it",
            )


def baselines(subject: Subject) -> None:
    """Baselines have distinct names, known kinds and factories that can be imported."""
    spec = subject.spec(16)
    found = subject.backend.baselines(spec, subject.device)
    if not isinstance(found, Sequence) or not all(isinstance(b, Baseline) for b in found):
        raise fail("a sequence of Baseline", got=repr(found)[:200], mend="return () where there is none")
    names = [b.name for b in found]
    if len(set(names)) < len(names):
        raise fail("baselines of distinct names", got=", ".join(names), mend="rename one")
    for b in found:
        if b.kind not in _KINDS:
            raise fail(
                f"a kind from {', '.join(_KINDS)}", got=b.kind, where=f"baseline '{b.name}'", mend="use one"
            )
        module, _, name = b.factory.partition(":")
        try:
            factory = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise fail(
                "a factory that a worker process can import",
                got=f"{b.factory}: {error}",
                where=f"baseline '{b.name}'",
                mend='factory="package.module:function"',
            ) from error
        if not callable(factory):
            raise fail(
                "a factory that can be called with the reference",
                got=type(factory).__name__,
                where=f"baseline '{b.name}'",
                mend="name a function of the reference",
            )


def standalone(subject: Subject) -> None:
    """Exported kernels have a loader that needs nothing of Kevolve, or the language says it has none."""
    for language in subject.manifest.languages:
        try:
            text = subject.backend.standalone_loader(language)
        except UnsupportedError:
            continue
        except KevolveError as error:
            raise fail(
                "loader source, or UnsupportedError", got=error, where=language, mend="raise UnsupportedError"
            ) from error
        try:
            tree = syntax.parse(text)
        except SyntaxError as error:
            raise fail(
                "loader source that is Python", got=error, where=language, mend="correct the text"
            ) from error
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        imported = [
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
        ]
        ours = [name for name in imported if name.partition(".")[0].startswith("kevolve")]
        if text.strip() and ("load_native" not in defined or ours):
            raise fail(
                "loader source that defines load_native and imports nothing of Kevolve",
                got=f"imports {ours[0]}" if ours else f"defines {', '.join(sorted(defined)) or 'nothing'}",
                where=f"standalone_loader('{language}')",
                mend="carry the loader's code along in the text, or raise UnsupportedError",
            )


CHECKS = (
    Check("manifest.valid", manifest, (0,)),
    Check("capabilities.undeclared", undeclared, (0,)),
    Check("baselines.importable", baselines, (0,)),
    Check("standalone.loader", standalone, (0,)),
)

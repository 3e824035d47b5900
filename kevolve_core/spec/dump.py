"""Writing specifications as YAML that reads back to the same fingerprint."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import yaml

from kevolve_core import syntax
from kevolve_core.kernelspec import Case, Distribution, InputSpec, KernelSpec, Reference
from kevolve_core.model import Candidate
from kevolve_core.spec.inputs import INTEGER_RANGE

__all__ = ["dump_spec"]


class _Dumper(yaml.SafeDumper):
    """Safe YAML: short lists in one line, texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    flow = all(not isinstance(v, (dict, list)) for v in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flow)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def dump_spec(spec: KernelSpec) -> str:
    """YAML text of ``spec``; self-contained, as the reference and the seeds are written out.

    Inputs that all cases share are written once.
    """
    shared = _shared_inputs(spec.cases)
    body: dict[str, Any] = {"kevolve": 1, "name": spec.name, "reference": _reference(spec.reference)}
    if shared:
        body["inputs"] = {name: _input(s) for name, s in shared.items()}
    body["cases"] = [_case(case, shared) for case in spec.cases]
    if spec.precision.policy == "relaxed":
        body["precision"] = {"policy": "relaxed", "rtol": spec.precision.rtol, "atol": spec.precision.atol}
    if spec.objective != "latency":
        body["objective"] = spec.objective
    if spec.mode != "eval":
        body["mode"] = spec.mode
    if spec.targets:
        body["targets"] = list(spec.targets)
    if spec.seeds:
        body["seeds"] = [_seed(seed) for seed in spec.seeds]
    if spec.options:
        body["options"] = _plain(spec.options)
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _reference(ref: Reference) -> dict[str, Any]:
    body: dict[str, Any] = {"python": ref.source, "symbol": ref.symbol}
    tree = syntax.parse(ref.source)
    classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    if ref.kind != ("module" if ref.symbol in classes else "function"):
        body["kind"] = ref.kind
    if ref.init:
        body["init"] = _plain(ref.init)
    # Where the source has the function of the KernelBench layout, say whether it is meant.
    if ref.init_from or "get_init_inputs" in functions:
        body["init_from"] = ref.init_from
    if ref.inputs_from or "get_inputs" in functions:
        body["inputs_from"] = ref.inputs_from
    if ref.search_path:
        body["search_path"] = list(ref.search_path)
    return body


def _shared_inputs(cases: tuple[Case, ...]) -> dict[str, InputSpec]:
    """The inputs of the first case, where every case has the same names in the same order."""
    orders = {tuple(s.name for s in case.inputs) for case in cases}
    return {s.name: s for s in cases[0].inputs} if len(orders) == 1 and cases[0].inputs else {}


def _case(case: Case, shared: Mapping[str, InputSpec]) -> dict[str, Any]:
    body: dict[str, Any] = {"name": case.name}
    if case.role != "tune":
        body["role"] = case.role
    if case.weight != 1.0:
        body["weight"] = case.weight
    own = {s.name: _restated(s, shared.get(s.name)) for s in case.inputs if shared.get(s.name) != s}
    if own:
        body["inputs"] = own
    if case.init:
        body["init"] = _plain(case.init)
    return body


def _restated(s: InputSpec, base: InputSpec | None) -> dict[str, Any]:
    """The keys in which ``s`` differs from ``base``; all of them where a key would have to be unsaid."""
    full = _input(s)
    if base is None:
        return full
    before = _input(base)
    changed = {k: v for k, v in full.items() if before.get(k) != v}
    defaults = {"dtype": "float32", "layouts": ["contiguous"], "special": True}
    if s.shape is not None:
        unsaid = {k: defaults[k] for k in before if k in defaults and k not in full}
        changed.update(unsaid)
        if "distribution" in before and "distribution" not in full:
            changed["distribution"] = {"kind": "normal"}
    return changed


def _input(s: InputSpec) -> dict[str, Any]:
    if s.shape is None:
        body: dict[str, Any] = {"value": s.value}
        if s.dtype != {bool: "bool", int: "int64", float: "float64"}.get(type(s.value), "float32"):
            body["dtype"] = s.dtype
        return body
    body = {"shape": list(s.shape)}
    if s.dtype != "float32":
        body["dtype"] = s.dtype
    if s.distribution != Distribution() or s.dtype in INTEGER_RANGE:
        body["distribution"] = {
            key: value
            for key in ("kind", "low", "high", "source")
            if (value := getattr(s.distribution, key)) is not None
        }
    if s.layouts != ("contiguous",):
        body["layouts"] = list(s.layouts)
    if not s.special:
        body["special"] = False
    return body


def _seed(seed: Candidate) -> dict[str, Any]:
    body: dict[str, Any] = {"files": dict(seed.files), "entry": seed.entry, "language": seed.language}
    if seed.symbol:
        body["symbol"] = seed.symbol
    if seed.parents:
        body["parents"] = list(seed.parents)
    if seed.genome is not None:
        body["genome"] = _plain(seed.genome)
    if seed.libraries:
        body["libraries"] = list(seed.libraries)
    return body

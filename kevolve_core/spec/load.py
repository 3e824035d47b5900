"""Loading specifications: YAML checked against the schema, or a Python file in the KernelBench layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kevolve_core.errors import SpecError, suggest
from kevolve_core.kernelspec import Case, KernelSpec, Precision
from kevolve_core.spec.checks import check, read_yaml
from kevolve_core.spec.inputs import parse_inputs, with_sizes
from kevolve_core.spec.sources import load_seed, parse_reference, parse_seed, read_text

__all__ = ["load_seed", "load_spec", "parse_spec"]


def load_spec(path: str | Path) -> KernelSpec:
    """The specification in a file.

    Args:
        path: a YAML file with ``kevolve: 1``, or a Python file that defines ``Model``, ``get_inputs`` and,
            where the constructor needs it, ``get_init_inputs``.

    Raises:
        SpecError: names the file, the key and, for a mistyped one, what was probably meant.
    """
    file = Path(path)
    if file.is_dir():
        raise SpecError("a specification is a file", got=str(path), mend="name the YAML or Python file in it")
    text = read_text(file, "the specification", str(file))
    if file.suffix == ".py":
        return _from_python(file)
    if file.suffix not in {".yaml", ".yml", ".json"}:
        raise SpecError(
            "a specification is a .yaml or a .py file", got=str(path), mend="rename it to what it contains"
        )
    return parse_spec(
        read_yaml(text, str(file)), file.parent, where=str(file), default_name=_identifier(file.stem)
    )


def _identifier(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem) or "kernel"


def _from_python(file: Path) -> KernelSpec:
    where = str(file)
    name = _identifier(file.stem)
    reference = parse_reference({"file": file.name}, file.parent, where, name, False, False)
    if not reference.inputs_from:
        raise SpecError(
            "a Python specification defines get_inputs()",
            got=f"'{reference.symbol}' without inputs",
            where=where,
            mend="add get_inputs() that returns the list of inputs, or declare them in a YAML spec",
        )
    return KernelSpec(name, reference, (Case("default"),))


def parse_spec(
    mapping: Mapping[str, Any],
    base_dir: str | Path = ".",
    *,
    where: str = "spec",
    default_name: str = "kernel",
) -> KernelSpec:
    """The specification that a mapping (the content of a YAML file) describes.

    Args:
        mapping: keys as in ``schema.json``.
        base_dir: what relative paths in it are relative to.
        where: the file, for messages.
        default_name: name where the mapping has none.

    Raises:
        SpecError: as `load_spec`.
    """
    check(mapping, where)
    base = Path(base_dir)
    name = mapping.get("name", default_name)
    raw_cases: list[dict[str, Any]] = mapping.get("cases", [{"name": "default"}])
    reference = parse_reference(
        mapping["reference"],
        base,
        f"{where}: reference",
        name,
        "inputs" in mapping or any("inputs" in c for c in raw_cases),
        any(c.get("init") for c in raw_cases),
    )
    seeds = tuple(
        parse_seed(seed, base, f"{where}: seeds[{i}]", reference.symbol)
        for i, seed in enumerate(mapping.get("seeds", ()))
    )
    return KernelSpec(
        name=name,
        reference=reference,
        cases=_cases(mapping, raw_cases, bool(reference.inputs_from), where),
        precision=_precision(mapping.get("precision", "parity"), f"{where}: precision"),
        objective=mapping.get("objective", "latency"),
        mode=mapping.get("mode", "eval"),
        targets=tuple(mapping.get("targets", ())),
        seeds=seeds,
        options=mapping.get("options", {}),
    )


def _cases(
    mapping: Mapping[str, Any], raw_cases: list[dict[str, Any]], by_function: bool, where: str
) -> tuple[Case, ...]:
    cases: list[Case] = []
    places: dict[str, str] = {}
    for i, raw in enumerate(raw_cases):
        place = f"{where}: cases[{i}]"
        name = raw["name"]
        if name in places:
            raise SpecError(
                f"two cases are named '{name}'", where=f"{places[name]} and {place}", mend="rename one"
            )
        places[name] = place
        sizes = raw.get("sizes", {})
        inputs = parse_inputs(
            mapping.get("inputs", ()), raw.get("inputs", ()), sizes, f"{where}: inputs", f"{place}.inputs"
        )
        if not inputs and not by_function:
            raise SpecError(
                f"case '{name}' has no inputs",
                where=place,
                mend="declare 'inputs' in the case or for all cases, or define get_inputs() in the reference",
            )
        init = with_sizes(raw.get("init", {}), sizes, f"{place}.init")
        cases.append(Case(name, inputs, raw.get("role", "tune"), float(raw.get("weight", 1.0)), init))
    if not any(c.role == "tune" and c.weight > 0 for c in cases):
        raise SpecError(
            "no case is there to tune on",
            got=", ".join(f"{c.name} ({c.role}, weight {c.weight:g})" for c in cases) or "no cases",
            where=f"{where}: cases",
            mend="add a case of role tune with a positive weight",
        )
    return tuple(cases)


def _precision(given: Any, where: str) -> Precision:
    body = {"policy": given} if isinstance(given, str) else dict(given)
    policy = body.get("policy", "relaxed" if body.keys() & {"rtol", "atol"} else "parity")
    if policy not in {"parity", "relaxed"}:
        raise SpecError(
            "unknown precision policy",
            got=policy,
            where=where,
            mend=suggest(policy, ["parity", "relaxed"]) or "parity or relaxed",
        )
    rtol, atol = float(body.get("rtol", 0.0)), float(body.get("atol", 0.0))
    if policy == "parity" and (rtol or atol):
        raise SpecError(
            "the policy 'parity' takes no tolerances", got=body, where=where, mend="write policy: relaxed"
        )
    if policy == "relaxed" and not (rtol or atol):
        raise SpecError(
            "the policy 'relaxed' needs a tolerance",
            where=where,
            mend="{policy: relaxed, rtol: 1e-3, atol: 1e-5}",
        )
    return Precision(policy, rtol, atol)

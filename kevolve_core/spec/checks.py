"""Reading YAML and checking it against the JSON Schema, with errors a person can act on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from kevolve_core.errors import SpecError, suggest

__all__ = ["check", "key_path", "read_yaml", "schema"]

_ORDER = ("additionalProperties", "type", "enum", "const", "required")
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a YAML specification."""
    text = files("kevolve_core.spec").joinpath("schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def key_path(parts: Iterable[str | int]) -> str:
    """``cases[1].inputs.x`` for the parts of a path."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts)
    return text.lstrip(".") or "top level"


class _Loader(yaml.SafeLoader):
    """Safe YAML with YAML 1.2's numbers (``1e-6`` is one) and no silent duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises SpecError with the line for what is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(
            "the file is not valid YAML",
            got=error.problem or error.context,
            where=f"{where}, line {mark.line + 1}" if mark else where,
        ) from error
    except yaml.YAMLError as error:
        raise SpecError("the file is not valid YAML", got=str(error), where=where) from error


def check(value: Any, where: str) -> None:
    """Raise SpecError for the most telling violation of the schema in ``value``."""
    if not isinstance(value, Mapping):
        raise SpecError(
            "a specification is a mapping of keys",
            got=type(value).__name__,
            where=where,
            mend="start with 'kevolve: 1'",
        )
    if "kevolve" not in value:
        near = next((k for k in value if suggest(str(k), ["kevolve"])), None)
        raise SpecError(
            "the schema version is missing",
            got=f"keys {', '.join(map(str, value))}" if value else "an empty file",
            where=where,
            mend=f"rename '{near}' to 'kevolve'" if near else "add 'kevolve: 1' at the top",
        )
    if isinstance(value["kevolve"], bool) or value["kevolve"] != 1:
        raise SpecError(
            "this version of Kevolve reads schema version 1",
            got=value["kevolve"],
            where=f"{where}: kevolve",
            mend="write 'kevolve: 1', or install a newer Kevolve",
        )
    if bad := _non_finite(value, ()):
        raise SpecError("a number must be finite", got=bad[1], where=f"{where}: {key_path(bad[0])}")
    errors = sorted(Draft202012Validator(schema()).iter_errors(value), key=_rank)
    if errors:
        raise _explained(errors[0], where)


def _non_finite(value: Any, path: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], float] | None:
    if isinstance(value, float) and not math.isfinite(value):
        return path, value
    pairs: Iterable[tuple[str | int, Any]] = ()
    # A scalar input and a constructor may well be given infinity.
    if isinstance(value, Mapping):
        pairs = ((k, v) for k, v in value.items() if k not in {"value", "init"})
    elif isinstance(value, list):
        pairs = enumerate(value)
    return next((bad for k, v in pairs if (bad := _non_finite(v, (*path, k)))), None)


def _rank(error: ValidationError) -> tuple[int, int]:
    kind = str(error.validator)
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), len(error.absolute_path))


def _explained(error: ValidationError, where: str) -> SpecError:
    place = f"{where}: {key_path(error.absolute_path)}"
    kind = str(error.validator)
    got: Any = error.instance
    limit: Any = error.validator_value
    properties: Any = error.schema
    if kind == "additionalProperties":
        known = list(properties["properties"])
        unknown = [k for k in got if k not in known]
        key = unknown[0]
        mend = suggest(str(key), known) or f"known keys: {', '.join(known)}"
        return SpecError(
            f"unknown key '{key}'",
            got=key,
            where=f"{where}: {key_path([*error.absolute_path, key])}",
            mend=mend,
        )
    if kind == "type":
        wanted = [limit] if isinstance(limit, str) else list(limit)
        expected = " or ".join(_WORDS[w] for w in wanted)
        return SpecError(f"expected {expected}", got=f"{got!r} ({type(got).__name__})", where=place)
    if kind == "enum":
        allowed = [str(v) for v in limit]
        mend = suggest(str(got), allowed) if isinstance(got, str) else ""
        listed = f"one of {', '.join(allowed)}"
        return SpecError("unknown value", got=got, where=place, mend=f"{mend} ({listed})" if mend else listed)
    if kind == "required":
        missing = next(k for k in limit if k not in got)
        return SpecError(f"the key '{missing}' is missing", where=place, mend=f"add '{missing}: …'")
    if kind in {"minimum", "exclusiveMinimum", "maximum"}:
        relation = {"minimum": "at least", "exclusiveMinimum": "greater than", "maximum": "at most"}[kind]
        return SpecError(f"the value must be {relation} {limit}", got=got, where=place)
    if kind == "pattern":
        return SpecError(
            "not a name", got=repr(got), where=place, mend="use letters, digits and '_', no spaces"
        )
    if kind in {"minItems", "minLength", "minProperties"}:
        return SpecError("must not be empty", got=repr(got), where=place)
    return SpecError(error.message, where=place)

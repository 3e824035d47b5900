"""Kevolve's data classes as plain JSON values and back (cattrs)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, override

from kevolve_core.model import Candidate

__all__ = ["dumps", "from_plain", "loads", "to_plain"]

T = TypeVar("T")

_converter = Converter(unstruct_collection_overrides={tuple: list, frozenset: sorted})
_converter.register_unstructure_hook_func(
    lambda cls: cls is MappingProxyType or getattr(cls, "__origin__", None) is Mapping,
    lambda value: {k: _converter.unstructure(v) for k, v in value.items()},
)
_converter.register_structure_hook_func(lambda cls: cls is Any or cls is object, lambda value, _: value)
_converter.register_structure_hook(
    Candidate, make_dict_structure_fn(Candidate, _converter, id=override(omit=True))
)


def to_plain(value: Any) -> Any:
    """JSON values (dict, list, str, int, float, bool, None) for a data class of the contract."""
    return _converter.unstructure(value)


def from_plain(cls: type[T], value: Any) -> T:
    """The inverse of `to_plain`. Raises cattrs' exception group where ``value`` does not have the shape of
    ``cls``."""
    return _converter.structure(value, cls)


def dumps(value: Any) -> str:
    """JSON text of a data class."""
    return json.dumps(to_plain(value))


def loads(cls: type[T], text: str) -> T:
    """A data class from JSON text."""
    return from_plain(cls, json.loads(text))

"""Specifications of common operators, for requests in plain words.

One YAML file each, with other names of the operator (``aliases``), the order of its sizes as people give them
(``shape``), and the specification itself (``spec``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from kevolve_core.errors import RequestError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.spec import parse_spec
from kevolve_core.spec.checks import read_yaml

__all__ = ["Entry", "entries"]

_FOLDER = Path(__file__).parent


@frozen
class Entry:
    """One operator of the catalogue.

    Args:
        name: the operator's and the specification's name.
        aliases: other ways to say it.
        shape: symbols of its sizes in the order in which ``4096x1024`` gives them.
        body: the specification as in a YAML file.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[str, ...]
    body: Mapping[str, Any]

    def spec(self, sizes: Mapping[str, int] | None = None, dtype: str = "") -> KernelSpec:
        """The specification, with one timed case of ``sizes`` in place of its own and floating-point inputs
        of ``dtype``, where given.

        Raises:
            RequestError: the sizes are not those that the operator has.
        """
        body = copy.deepcopy(dict(self.body))
        if dtype:
            for given in body["inputs"].values():
                if "shape" in given:
                    given.setdefault("dtype", dtype)
        if sizes:
            if set(sizes) != set(self.shape):
                raise RequestError(
                    f"which sizes shall {self.name} have?",
                    got=", ".join(f"{name} = {value}" for name, value in sizes.items()),
                    mend=f"give {len(self.shape)} of them: {' x '.join(self.shape)}",
                )
            timed = [case for case in body["cases"] if case.get("weight", 1) and "role" not in case]
            kept = [case for case in body["cases"] if case not in timed]
            body["cases"] = [{"name": "requested", "sizes": dict(sizes)}, *kept]
        spec = parse_spec(body, _FOLDER, where=f"the catalogue's {self.name}")
        # References of the catalogue import nothing beside torch: no folder of this machine goes along.
        return attrs.evolve(spec, reference=attrs.evolve(spec.reference, search_path=()))


@cache
def entries() -> tuple[Entry, ...]:
    """All operators of the catalogue, by name."""
    found = []
    for file in sorted(_FOLDER.glob("*.yaml")):
        read = read_yaml(file.read_text(encoding="utf-8"), file.name)
        found.append(Entry(file.stem, tuple(read["aliases"]), tuple(read["shape"]), read["spec"]))
    return tuple(found)

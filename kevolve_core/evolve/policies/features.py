"""Genomes as rows of numbers, so that a model can learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ABSENT", "Features", "features_of", "matrix"]

#: Column name -> value. Numbers keep their value; every other value is a column of its own that holds 1.
Features = Mapping[str, float]
#: What a row holds that has no such tunable: below every count, size and flag.
ABSENT = -1.0


def features_of(genome: Mapping[str, Any]) -> dict[str, float]:
    """The features of a genome or point: nested names are joined, words and list items become flags."""
    found: dict[str, float] = {}
    _flatten("", genome, found)
    return found


def _flatten(path: str, value: Mapping[str, Any], found: dict[str, float]) -> None:
    for key, inner in value.items():
        name = f"{path}/{key}"
        if isinstance(inner, (int, float)):  # flags too; first, as most are numbers
            found[name] = float(inner)
        elif isinstance(inner, Mapping):
            _flatten(name, inner, found)
        elif isinstance(inner, (list, tuple)):
            for item in inner:
                found[f"{name}={item!r}"] = 1.0
        else:
            found[f"{name}={inner!r}"] = 1.0


def matrix(rows: Sequence[Features], columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Rows × columns; what a row lacks is -1."""
    table = [[row.get(name, ABSENT) for name in columns] for row in rows]
    return np.asarray(table, dtype=np.float64).reshape(len(rows), len(columns))

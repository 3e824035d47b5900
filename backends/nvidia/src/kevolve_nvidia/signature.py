"""What a case's arguments look like, without their data: what host code needs to be recorded ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.spec.runtime import LoadedReference, example_inputs, layouts, load_reference

__all__ = ["arguments_of", "signature_of"]


def signature_of(spec: KernelSpec, case: Case) -> dict[str, Any]:
    """A case's arguments in every layout that the spec tests, and its constructor's, as JSON values.

    ``{"layouts": [[leaf, …], …], "args": […], "kwargs": {…}, "state": {name: leaf}, "training": bool}``; a
    leaf is ``{"value": …}`` or ``{"dtype", "shape", "strides", "offset"}`` in elements.
    """
    reference = _described(spec, case)
    kinds = layouts(spec, case) if case.inputs else ("contiguous",)
    rows = [[_leaf(v) for v in example_inputs(spec, case, layout)] for layout in kinds]
    unique = {repr(row): row for row in rows}
    state = {} if reference.module is None else reference.module.state_dict()
    return {
        "layouts": list(unique.values()),
        "args": list(reference.init_args),
        "kwargs": dict(reference.init_kwargs),
        "state": {name: _leaf(value) for name, value in state.items()},
        "training": spec.mode == "train",
    }


def _described(spec: KernelSpec, case: Case) -> LoadedReference:
    """The reference, without data where its code lets it be: weights may be gigabytes, and drawing them takes
    a minute."""
    try:
        with torch.device("meta"):
            found = load_reference(spec, case, 0)
        if not any(isinstance(v, torch.Tensor) for v in (*found.init_args, *found.init_kwargs.values())):
            return found
    except (
        Exception
    ):  # whatever the user's code does with values; with data it says what is wrong, if anything
        pass
    return load_reference(spec, case, 0)


def _leaf(value: Any) -> dict[str, Any]:
    if not isinstance(value, torch.Tensor):
        return {"value": value}
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "strides": list(value.stride()),
        "offset": value.storage_offset(),
    }


def arguments_of(row: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The arguments of one layout on PyTorch's ``meta`` device: strides, and addresses modulo alignment, are
    as on a device."""
    values: list[Any] = []
    for leaf in row:
        if "value" in leaf:
            values.append(leaf["value"])
            continue
        shape, strides, offset = leaf["shape"], leaf["strides"], leaf["offset"]
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if 0 not in shape else 0
        flat = torch.empty(offset + extent, dtype=getattr(torch, leaf["dtype"]), device="meta")
        values.append(flat.as_strided(shape, strides, offset))
    return values

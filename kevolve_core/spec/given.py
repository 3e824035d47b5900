"""Inputs that the user's own ``get_inputs()`` makes (the KernelBench layout)."""

from __future__ import annotations

from typing import Any

import torch

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.spec.draw import generator, transform
from kevolve_core.spec.importing import import_reference, user_code
from kevolve_core.spec.seeding import seeded

__all__ = ["described_by_file", "drawn_by_file", "given_by_file", "is_free"]


def drawn_by_file(spec: KernelSpec, case: Case, seed: int, variant: str) -> tuple[Any, ...]:
    """What the file's ``get_inputs()`` returns under ``seed``, its float tensors turned into ``variant``."""
    given = given_by_file(spec, seed)
    inputs = [v.detach() if isinstance(v, torch.Tensor) else v for v in given]
    if variant == "base":
        return tuple(inputs)
    return tuple(
        transform(v.clone(), variant, generator(seed, case.name, i, variant), True, v.dtype)
        if isinstance(v, torch.Tensor) and is_free(v)
        else v
        for i, v in enumerate(inputs)
    )


def described_by_file(spec: KernelSpec) -> tuple[Any, ...]:
    """What `drawn_by_file` gives, without data: tensors are on PyTorch's ``meta`` device. Where the file
    needs data to make its inputs they are drawn, and then described."""
    try:
        with torch.device("meta"):
            given = given_by_file(spec, 0)
    except SpecError:
        given = given_by_file(spec, 0)
    return tuple(v.detach().to("meta") if isinstance(v, torch.Tensor) else v for v in given)


def given_by_file(spec: KernelSpec, seed: int) -> list[Any] | tuple[Any, ...]:
    """The list that ``get_inputs()`` returns under ``seed``, on PyTorch's default device."""
    ref = spec.reference
    with seeded(seed):
        namespace = import_reference(spec)
        torch.manual_seed(seed)
        with user_code(spec, f"{ref.inputs_from}() fails"):
            given: Any = namespace[ref.inputs_from]()
    if not isinstance(given, (list, tuple)):
        raise SpecError(
            f"{ref.inputs_from}() must return a list of inputs",
            got=type(given).__name__,
            where=ref.path or spec.name,
        )
    return given


def is_free(x: torch.Tensor) -> bool:
    """Whether a tensor drawn by the user's code looks like unconstrained floats.

    Whole numbers (labels, counts, masks), rows that sum to one (probabilities), triangular, diagonal and
    symmetric matrices are taken as promises and left alone.
    """
    if not x.dtype.is_floating_point or not x.numel():
        return False
    sample = x.reshape(-1)[:4096].double()
    if bool((sample == sample.round()).all()):
        return False
    if x.dim() >= 1 and x.shape[-1] > 1:
        sums = x.reshape(-1, x.shape[-1])[:64].double().sum(-1)
        if bool(((sums - 1).abs() < 1e-2).all()):
            return False
    if x.dim() == 2 and x.shape[0] == x.shape[1] and x.shape[0] > 1:
        corner = x[:256, :256]
        if torch.equal(corner, corner.T) or not corner.triu(1).any() or not corner.tril(-1).any():
            return False
    return True

"""Functions of PyTorch that look at values only to refuse bad ones, or whose shapes come from a mask that
does not depend on them: while a reference is captured they are these, which do not look. The reference itself
still refuses what it refuses."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["UNCHECKED", "unvalidated"]


def _cov(x: torch.Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> torch.Tensor:
    if fweights is not None or aweights is not None:
        return torch.cov(x, correction=correction, fweights=fweights, aweights=aweights)
    rows = x.reshape(1, -1) if x.dim() < 2 else x
    rows = rows if rows.is_floating_point() or rows.is_complex() else rows.to(torch.get_default_dtype())
    n = rows.shape[1]
    centred = rows - (rows.sum(1) / n).unsqueeze(1)
    products = torch.mm(centred, centred.t().conj())
    return torch.div(products, float(max(0, n - correction))).squeeze()


def _corrcoef(x: torch.Tensor) -> torch.Tensor:
    c = _cov(x)
    if c.dim() == 0:
        return c / c
    deviation = c.diagonal().sqrt()
    scaled = c / deviation.unsqueeze(1) / deviation.unsqueeze(0)
    return scaled if scaled.is_complex() else scaled.clamp(-1, 1)


def _gaussian_nll_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    var: torch.Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> torch.Tensor:
    spread = var if isinstance(var, torch.Tensor) else var * torch.ones_like(input)
    if spread.shape != input.shape and spread.shape == input.shape[:-1]:
        spread = spread.unsqueeze(-1)
    spread = spread.clamp_min(eps)
    loss = 0.5 * (torch.log(spread) + (input - target) ** 2 / spread)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return {"mean": loss.mean, "sum": loss.sum}[reduction]() if reduction != "none" else loss


def _combinations(x: torch.Tensor, r: int = 2, with_replacement: bool = False) -> torch.Tensor:
    chosen = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = list(chosen(range(x.shape[0]), r))
    return x[torch.tensor(places, dtype=torch.int64).reshape(len(places), r)]


def _fill_diagonal_(x: torch.Tensor, value: float, wrap: bool = False) -> torch.Tensor:
    """What functionalisation knows no pure form of."""
    if x.dim() != 2 or (wrap and x.shape[0] > x.shape[1]):
        return x.fill_diagonal_(value, wrap)
    x.diagonal().fill_(value)
    return x


#: Function -> what it is captured as.
UNCHECKED: dict[Any, Callable[..., Any]] = {
    torch.combinations: _combinations,
    torch.cov: _cov,
    torch.Tensor.cov: _cov,
    torch.corrcoef: _corrcoef,
    torch.Tensor.corrcoef: _corrcoef,
    F.gaussian_nll_loss: _gaussian_nll_loss,
    torch.Tensor.fill_diagonal_: _fill_diagonal_,
}


_lock = threading.Lock()
_capturing: list[bool] = []  # the default before the first of the captures under way, once for each


@contextmanager
def unvalidated() -> Iterator[None]:
    """`torch.distributions` does not look at its parameters and samples, until the last capture that several
    threads may have under way has ended."""
    from torch.distributions import Distribution

    with _lock:
        _capturing.append(_capturing[0] if _capturing else Distribution._validate_args)
        Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        with _lock:
            before = _capturing.pop()
            if not _capturing:
                Distribution.set_default_validate_args(before)

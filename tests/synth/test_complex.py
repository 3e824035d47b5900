"""Complex numbers between real inputs and real results: left to the library, and fused around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kevolve_core.errors import KevolveError
from kevolve_core.ir import LibraryCall, LoopNest

X = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
H = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))


def long_convolution(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    n = x.shape[-1]
    product = torch.fft.rfft(2 * x, 2 * n) * torch.fft.rfft(h, 2 * n)
    return torch.relu(torch.fft.irfft(product, 2 * n)[..., :n]) + x


def spectrum(x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.fft.fft(x + h)
    return z.abs().sum(-1), torch.view_as_real(z.conj().resolve_conj())[..., 1]


def rotated(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as complex numbers, as some models write it."""
    turn = torch.polar(torch.ones_like(h[0, ::2]), h[0, ::2])
    return torch.view_as_real(torch.view_as_complex(x.reshape(4, 15, 2)) * turn).flatten(1)


@pytest.mark.parametrize("function", [long_convolution, spectrum, rotated], ids=lambda f: f.__name__)
def test_complex_values_between_real_ones(check: Callable[..., Any], function: Callable[..., Any]) -> None:
    check(function, [X, H])


def test_what_is_real_around_them_is_fused(lower: Callable[..., Any]) -> None:
    steps = lower(long_convolution, [X, H]).program.steps
    assert [n.name for n in steps if isinstance(n, LoopNest)]
    assert "aten::_fft_r2c" in [n.op for n in steps if isinstance(n, LibraryCall)]


def test_a_complex_result_is_refused(lower: Callable[..., Any]) -> None:
    with pytest.raises(KevolveError, match="complex64"):
        lower(lambda x: torch.fft.fft(x), [X])

"""Problems for the Triton renderer: what is computed, on which inputs, at which points of the spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen

from kevolve_core.synth.program import Partition
from tests.interpreted.attention import ATTENTION, points_of
from tests.interpreted.windowed import CHANNELS_LAST, POOLS, WINDOWED, WINDOWS

__all__ = ["LOOPED", "POINTS", "PROBLEMS", "Problem"]

Inputs = Callable[[], list[torch.Tensor]]

#: Points that force what a default would not do on small shapes.
LOOPED: Mapping[str, Any] = {"rows": 1, "cols": 16}
POINTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "looped": LOOPED,
    "tiled": {"rows": 4, "cols": 16, "programs": 2, "online": False},
    "held": {"rows": 2, "cols": 16, "held": True},
}
_SMALL = {"implementation": "generated", "tile_rows": 16, "tile_cols": 16, "tile_depth": 16}
PRODUCTS: Mapping[str, Mapping[str, Any]] = {
    "library": {},
    "generated": {"implementation": "generated"},
    "persistent": {**_SMALL, "tile_programs": 3},
    "split": {**_SMALL, "tile_split": 2},
    "promoted": {**_SMALL, "tile_chunk": 2, "tile_precision": "bf16x6"},
}
_TILES = {**_SMALL, "tile_loads": "descriptors"}
DESCRIPTORS: Mapping[str, Mapping[str, Any]] = {
    "descriptors": {"implementation": "generated", "tile_loads": "descriptors"},
    "persistent": {**_TILES, "tile_programs": 3},
    "split": {**_TILES, "tile_split": 2},
    "promoted": {**_TILES, "tile_chunk": 2, "tile_precision": "bf16x6"},
}


@frozen
class Problem:
    """A function, its inputs, and the points of the schedule spaces to try."""

    function: Callable[..., Any]
    inputs: Inputs
    points: Mapping[str, Mapping[str, Any]] = POINTS
    partition: Partition | None = None


def _normal(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Inputs:
    return lambda: [torch.randn(s).to(dtype) for s in shapes]


def _special(*shape: int) -> Inputs:
    """Rows with infinities of both signs, NaN, and nothing but minus infinity."""

    def made() -> list[torch.Tensor]:
        x = torch.randn(shape)
        x[0, 0], x[1, 3], x[2, 5], x[3, :] = float("inf"), float("-inf"), float("nan"), float("-inf")
        x[4, : shape[1] // 2] = float("-inf")
        return [x]

    return made


def _module(make: Callable[[], torch.nn.Module], *shape: int) -> Problem:
    torch.manual_seed(0)
    return Problem(make(), _normal(shape), PRODUCTS)


def _unary(function: Callable[..., Any], low: float = -3.0, high: float = 3.0) -> Problem:
    return Problem(function, lambda: [torch.empty(4, 97).uniform_(low, high)], {"default": {}})


class _Unrolled(torch.nn.Module):
    """A recurrence as a loop of Python's: its steps are alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.out = torch.nn.Linear(11, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        found = []
        for row in x:
            h = torch.tanh(self.inside(torch.cat((row, h), 1)))
            found.append(self.out(h))
        return torch.stack(found)


def _both_ways(x: torch.Tensor) -> torch.Tensor:
    """Steps that read at two places, which move apart, by distances that no vector divides."""
    n = x.shape[0]
    return torch.cat([torch.softmax(x[t] + x[n - 1 - t].sum(), 0) for t in range(n)])


class _Lstm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = torch.nn.LSTM(6, 7, batch_first=True).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.lstm(x)[0]
        return result


_recurrent = _Lstm()


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    nn = torch.nn
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    more = (nn.ConvTranspose2d(8, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Conv2d(4, 6, 1), nn.Sigmoid())
    return nn.Sequential(*layers, *more).eval()


def _dense(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    """Every layer reads what all before it made, by a convolution or by pooling it."""
    features = [F.max_pool2d(x, 3, 1, 1)]
    for w in weights:
        features.append(F.conv2d(torch.cat(features, 1).relu(), w, padding=1))
    return torch.cat([*features, F.avg_pool2d(features[-1], 3, 1, 1)], 1)


PROBLEMS: Mapping[str, Problem] = {
    "broadcast and transpose": Problem(lambda x, y: (x + y.t()).relu(), _normal((5, 7), (7, 5))),
    "softmax": Problem(lambda x: F.softmax(x, -1), _normal((5, 70))),
    "softmax over a middle dimension": Problem(lambda x: F.softmax(x, 1), _normal((3, 70, 4))),
    "softmax of special values": Problem(lambda x: F.softmax(x, -1), _special(6, 40)),
    "maxima of special values": Problem(lambda x: (x.amax(-1), x.amin(0), x.argmax(-1)), _special(6, 40)),
    "layer norm": Problem(
        lambda x, w, b: F.layer_norm(x, (70,), w, b), _normal((5, 70), (70,), (70,))
    ),
    "variance far from zero": Problem(
        lambda x: torch.var(x + 1000.0, -1),
        _normal((4, 1000)),
        {"looped": {"rows": 2, "cols": 64, "accumulate": "fp64"}},
    ),
    "group norm": Problem(lambda x, w: F.silu(F.group_norm(x, 4, w)), _normal((2, 8, 3, 5), (8,))),
    "batch statistics": Problem(
        lambda x: F.batch_norm(x, None, None, training=True), _normal((2, 8, 3, 5))
    ),
    "sum of everything": Problem(torch.sum, _normal((300, 500)), {"default": {}}),
    "ragged mean": Problem(torch.mean, _normal((70001,)), {"default": {}}),
    "long rows": Problem(lambda x: x.sum(-1), _normal((2, 65536)), {"looped": {"rows": 1, "cols": 256}}),
    "few rows of many results": Problem(
        lambda x: x / x.norm(dim=-1, keepdim=True),
        _normal((2, 5000)),
        {"spread": {"rows": 1, "cols": 64, "spread": 16}, "uneven": {"rows": 2, "cols": 128, "spread": 3}},
    ),
    "windows": Problem(
        lambda x: (F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, (2, 3))),
        _normal((2, 3, 7, 9)),
        {"default": {}, "unrolled": {"rows": 8, "cols": 1, "held": True}},
    ),
    "cumulative sum on wider rows": Problem(
        lambda x, y: (x.cumsum(1).exp().unsqueeze(-1) * y, x.cumsum(1)), _normal((3, 20), (3, 20, 6))
    ),
    "cumulative sum": Problem(lambda x: torch.cumsum(x, 1), _normal((3, 70))),
    "argmax over a middle dimension": Problem(lambda x: x.argmax(1), _normal((3, 40, 5))),
    "cross entropy": Problem(
        F.cross_entropy, lambda: [torch.randn(6, 40), torch.randint(0, 40, (6,))]
    ),
    "concatenation": Problem(lambda x, y: torch.cat([x, y], 1) * 2, _normal((6, 40), (6, 8))),
    "concatenation in place": Problem(
        lambda x, y: torch.cat([x.softmax(1), y.cumsum(1), y.sum(0, keepdim=True), x], 0),
        _normal((6, 20), (3, 20)),
    ),
    "dense block": Problem(
        _dense, _normal((2, 3, 5, 7), (4, 3, 3, 3), (2, 7, 3, 3)), {"library": {}, "generated": _SMALL}
    ),
    "padding": Problem(lambda x: F.pad(x, (1, 2, 3, 4)), _normal((6, 40))),
    "small numbers of float64": Problem(
        lambda x: (torch.asinh(x), torch.atanh(x), torch.acosh(1 + x.abs()), torch.log1p(x),
                   torch.expm1(x), torch.tanh(x)),
        lambda: [torch.rand(5, 9, dtype=torch.float64) * 1e-6],
        {"default": {}},
    ),
    "gamma of float64": Problem(
        lambda x: torch.lgamma(x), lambda: [torch.rand(5, 9, dtype=torch.float64) * 20 + 0.1], {"default": {}}
    ),
    "half precision from float64": Problem(
        lambda x: (x.double() / 3).to(torch.bfloat16), _normal((5, 9), dtype=torch.bfloat16), {"default": {}}
    ),
    "lengths of special values": Problem(
        torch.hypot, lambda: [_special(6, 40)()[0], _special(6, 40)()[0].flip(1)], {"default": {}}
    ),
    "bytes inverted": Problem(
        torch.bitwise_not, lambda: [torch.arange(45, dtype=torch.uint8).reshape(5, 9)], {"default": {}}
    ),
    "floors of special quotients": Problem(
        torch.floor_divide, lambda: [_special(6, 40)()[0], _special(6, 40)()[0].flip(1)], {"default": {}}
    ),
    "several results": Problem(lambda x: (x.sum(-1), x.amax(-1), x.mean(), x * 2), _normal((5, 7))),
    "half precision": Problem(
        lambda x, y: F.softmax(x, -1) * y, _normal((5, 70), (70,), dtype=torch.float16)
    ),
    "bfloat16": Problem(
        lambda x, y: F.rms_norm(x, (70,), y), _normal((5, 70), (70,), dtype=torch.bfloat16)
    ),
    "search": Problem(torch.searchsorted, lambda: [torch.randn(9).sort().values, torch.randn(20)]),
    "gather": Problem(lambda t, i: t[i], lambda: [torch.randn(9, 4), torch.randint(0, 9, (20,))]),
    "product and bools": Problem(
        lambda x: (x.prod(-1), (x > 0).any(-1), (x > 0).all(0)), _normal((5, 7))
    ),
    "integers": Problem(
        lambda x: (x * 3 // 7, x % 5, x.sum(-1), x.amax(0)), lambda: [torch.randint(-50, 50, (5, 7))]
    ),
    "a scalar": Problem(lambda x: (x * 2).exp(), _normal(()), {"default": {}}),
    "no rows": Problem(lambda x: x.sum(1), _normal((0, 7)), {"default": {}}),
    "no columns": Problem(lambda x: x.sum(1), _normal((3, 0))),
    "strided input": Problem(lambda x: x.sum(-1), lambda: [torch.randn(7, 20)[:, ::2]]),
    "matmul": Problem(lambda x, y: x @ y, _normal((70, 40), (40, 33)), PRODUCTS),
    "matmul and what follows": Problem(
        lambda x, y, b: F.gelu(x @ y.t() + b), _normal((70, 40), (50, 40), (50,)), PRODUCTS
    ),
    "matmul and a softmax": Problem(lambda x, y: F.softmax(x @ y, -1), _normal((20, 40), (40, 33)), PRODUCTS),
    "batched matmul": Problem(lambda x, y: (x @ y).relu(), _normal((3, 20, 40), (3, 40, 17)), PRODUCTS),
    "matmul in half precision": Problem(
        lambda x, y: (x @ y).relu(), _normal((20, 40), (40, 17), dtype=torch.float16), PRODUCTS
    ),
    "matmul in bfloat16": Problem(
        lambda x, y: (x @ y).relu(), _normal((20, 40), (40, 17), dtype=torch.bfloat16), PRODUCTS
    ),
    "ragged tiles by descriptors": Problem(
        lambda x, y, b: F.relu(x @ y + b), _normal((37, 52), (52, 20), (20,)), DESCRIPTORS
    ),
    "transposed tiles by descriptors": Problem(
        lambda x, y: (x.t() @ y.t()).relu(), _normal((52, 36), (24, 52)), DESCRIPTORS
    ),
    "one operand by descriptors": Problem(lambda x, y: x @ y, _normal((37, 51), (51, 20)), DESCRIPTORS),
    "batched tiles by descriptors": Problem(
        lambda x, y: (x @ y.mT).relu(), _normal((3, 20, 40), (3, 19, 40), dtype=torch.bfloat16), DESCRIPTORS
    ),
    "tiles of one matrix for a batch": Problem(
        lambda x, y: torch.bmm(x, y.expand(3, 40, 24)).relu(), _normal((3, 20, 40), (1, 40, 24)),
        {"descriptors": _TILES},
    ),
    "tiles of a part of a matrix": Problem(
        lambda x, y: x[4:, 8:48] @ y[:, 4:24], _normal((24, 52), (40, 28)), {"descriptors": _TILES}
    ),
    "alike products by descriptors": Problem(
        lambda x, v, w: torch.relu(torch.relu(torch.relu(x @ v) @ w) @ v),
        _normal((20, 40), (40, 40), (40, 40)), {"descriptors": _TILES},
    ),
    "alike products of parts by descriptors": Problem(
        lambda x, w: torch.relu(x[:, 8:24] @ w[:16]) + torch.relu(x[:, 16:32] @ w[8:24]).exp(),
        _normal((20, 40), (40, 24)), {"descriptors": _TILES},
    ),
    "tiles at odd addresses": Problem(
        lambda x, y: x @ y,
        lambda: [torch.randn(1 + m * n)[1:].reshape(m, n) for m, n in ((20, 40), (40, 24))],
        {"descriptors": _TILES},
    ),
    "convolution": _module(lambda: torch.nn.Conv2d(3, 8, 3, padding=1, stride=2), 2, 3, 9, 11),
    "grouped convolution and what follows": _module(
        lambda: torch.nn.Sequential(torch.nn.Conv2d(10, 8, 3, groups=2, dilation=2), torch.nn.SiLU()),
        2, 10, 9, 11,
    ),
    **{
        f"window: {name}": Problem(function, _normal(shape, dtype=dtype), WINDOWS)
        for name, (function, shape, dtype) in {**WINDOWED, **POOLS}.items()
    },
    **{
        f"window: {name}": Problem(
            function, _normal(shape, dtype=dtype), WINDOWS, Partition(channels_last=True)
        )
        for name, (function, shape, dtype) in CHANNELS_LAST.items()
    },
    "convolutions on channels-last memory": Problem(
        _network(), lambda: [torch.randn(2, 3, 9, 7)], {"library": {}, "generated": _SMALL},
        Partition(channels_last=True),
    ),
    "convolution in one dimension": _module(lambda: torch.nn.Conv1d(4, 8, 3), 2, 4, 9),
    "convolution in three dimensions": _module(
        lambda: torch.nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1), bias=False), 2, 2, 5, 6, 7
    ),
    "transposed convolution": _module(
        lambda: torch.nn.Sequential(
            torch.nn.ConvTranspose2d(3, 8, 3, padding=1, stride=(2, 3), output_padding=(1, 0)),
            torch.nn.ReLU(),
        ),
        2, 3, 5, 4,
    ),
    "transposed convolution of stride one": _module(
        lambda: torch.nn.ConvTranspose2d(4, 6, (3, 2), padding=(1, 0), dilation=(2, 1), groups=2), 2, 4, 7, 6
    ),
    "transposed convolution in one dimension": _module(
        lambda: torch.nn.ConvTranspose1d(4, 5, 5, stride=4, padding=2, bias=False), 2, 4, 9
    ),
    "transposed convolution in three dimensions": _module(
        lambda: torch.nn.Sequential(
            torch.nn.ConvTranspose3d(2, 4, (1, 2, 3), stride=(2, 1, 2), padding=(0, 1, 1)), torch.nn.Sigmoid()
        ),
        2, 2, 3, 4, 5,
    ),
    "a loop of equal steps": Problem(
        _Unrolled(), lambda: [torch.randn(6, 3, 3), torch.randn(3, 8)], {**PRODUCTS, "looped": LOOPED}
    ),
    "a scan of what does not move along it": Problem(lambda x: torch.vander(x, 21), _normal((7,))),
    "few sums of terms that cancel": Problem(
        lambda x, y: F.kl_div(x * 100, y, reduction="batchmean"),
        lambda: [torch.randn(7, 33), torch.empty(7, 33).uniform_(0.01, 1.0)],
    ),
    "steps that read from both ends": Problem(_both_ways, _normal((5, 37))),
    "a recurrence": Problem(_recurrent, lambda: [torch.randn(2, 5, 6)], {"default": {}}),
    "depthwise convolution": _module(lambda: torch.nn.Conv2d(6, 6, 3, groups=6), 2, 6, 9, 11),
    "exp": _unary(torch.exp, -80.0, 80.0),
    "expm1 and log1p": _unary(lambda x: (torch.expm1(x), torch.log1p(x * 0.3))),
    "softplus, mish and elu": _unary(
        lambda x: (F.softplus(x), F.mish(x), F.elu(x), torch.log1p(torch.exp(x))), -30.0, 30.0
    ),
    "edges of expm1 and log1p": Problem(
        lambda x: (torch.log1p(x), torch.expm1(x)),
        lambda: [torch.tensor([-2.0, -1.0, -0.0, 0.0, 1e-38, 89.0, 3e38, float("inf"), float("nan")])],
    ),
    "tanh and sigmoid": _unary(lambda x: (torch.tanh(x), torch.sigmoid(x))),
    "logarithms": _unary(lambda x: (torch.log(x), torch.log2(x), torch.log10(x)), 1e-3, 50.0),
    "trigonometry": _unary(lambda x: (x.sin(), x.cos(), x.tan(), x.atan()), -1.4, 1.4),
    "inverse functions": _unary(lambda x: (x.asin(), x.acos(), x.atanh(), x.asinh()), -1.0, 1.0),
    "hyperbolic functions": _unary(lambda x: (x.sinh(), x.cosh(), (x.abs() + 1).acosh())),
    "rounding": _unary(lambda x: (x.round(), x.floor(), x.ceil(), x.trunc(), x.sign()), -9.0, 9.0),
    "error functions": _unary(lambda x: (x.erf(), x.erfc())),
    "log of gamma": _unary(torch.lgamma, -4.5, 20.0),
    "powers": _unary(lambda x: (x.abs() ** 1.7, x**3, 2.0**x, x.abs().sqrt(), x.abs().rsqrt())),
    "remainders": Problem(
        lambda x, y: (x % y, torch.fmod(x, y), torch.floor_divide(x, y), torch.atan2(x, y)),
        _normal((4, 97), (4, 97)),
        {"default": {}},
    ),
    **{
        name: Problem(function, inputs, points_of(name), Partition(attention=True))
        for name, (function, inputs) in ATTENTION.items()
    },
}  # fmt: skip

"""Convolutions that the CuTe DSL kernel takes, their schedules and the space of these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from kevolve_core.ir import LibraryCall, Load, Operand, itemsize, walk
from kevolve_core.space import Constraint, Parameter, Space
from kevolve_nvidia.cutedsl.walk import ConvolutionWalk

__all__ = [
    "ConvolutionSchedule", "Geometry", "convolution_schedule_of", "convolution_space", "default_convolution",
    "geometry_of", "is_convolution",
]  # fmt: skip

_BARRIER_BYTES = 2048  # kept for the rings' barriers, to the alignment of the tiles behind them
_KEPT_BYTES = 8 * 8 * 72 * 4  # what 8 multiplying warps keep of their sums while they store them
_HOPPER = 90
_SHARED_BYTES = 227 << 10  # of a block, opted in (CUDA C++ Programming Guide, compute capability 9.0)
_SUMS_PER_THREAD = (
    128  # of 232 registers; addresses of both operands and of results need the rest; `estimated`
)
_LEAST = 16  # channels below which a tile is mostly empty; `estimated`
_DEEP = 32  # input channels below which storing outweighs computing: the library first; `estimated`
_MOST_SHARED = 7  # rows of taps that one copy serves: more make the copies too high; `estimated`
_NARROW = (16, 32, 48)  # tiles of less channels than wgmma has rows, multiples of 16: pixels are rows
_BOX = 256  # elements of a copy in one dimension (CUDA driver API, cuTensorMapEncodeTiled)


@frozen
class Geometry:
    """A convolution of stride 1; sizes are (width, height, depth), 1 where there are fewer dimensions.

    ``image`` and ``strides`` are (x, y, z, image), the strides of memory with channels last. ``converts``
    says that the operand's channels are not last: the candidate moves them. ``transposed`` says that the call
    is a transposed convolution: this one by its filters mirrored in space, with input and output channels
    exchanged, and ``padding`` this one's, which may be negative.
    """

    images: int
    taken: int
    filters: int
    image: tuple[int, int, int]
    taps: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    strides: tuple[int, int, int, int]
    converts: bool
    transposed: bool = False

    @property
    def result(self) -> tuple[int, int, int]:
        w, h, d = (
            n + 2 * p - r * (k - 1)
            for n, p, r, k in zip(self.image, self.padding, self.dilation, self.taps, strict=True)
        )
        return w, h, d


def is_convolution(call: LibraryCall) -> bool:
    """Whether the call may be one that the kernel takes; types, layouts and sizes can still say no."""
    name = call.op.removeprefix("aten::").removesuffix(".default")
    if name != "convolution" or len(call.operands) not in (2, 3) or call.outputs or call.repeat:
        return False
    given = call.attributes
    one = all(s == 1 for s in _listed(given.get("stride"), 3, 1))
    more = any(_listed(given.get("output_padding"), 3, 0))
    return one and not more and int(given.get("groups", 1)) == 1


def _listed(value: object, n: int, other: int) -> list[int]:
    """A number for each spatial dimension, which may be given once for all."""
    found = [int(v) for v in value] if isinstance(value, (list, tuple)) else []
    return found * n if len(found) == 1 else found or [other] * n


def _triple(values: list[int], other: int) -> tuple[int, int, int]:
    """(height, width) or the like as (width, height, depth)."""
    w, h, d = [*reversed(values), other, other][:3]
    return w, h, d


def geometry_of(call: LibraryCall, width: int) -> Geometry | None:
    """The call in the kernel's terms, None where it does not take it; ``width`` is an element's in bytes."""
    if not is_convolution(call):
        return None
    x, w = call.operands[:2]
    spatial = len(x.shape) - 2
    transposed = bool(call.attributes.get("transposed"))
    taken, filters = (w.shape[0], w.shape[1]) if transposed else (w.shape[1], w.shape[0])
    if not 1 <= spatial <= 3 or len(w.shape) != len(x.shape) or taken != x.shape[1]:
        return None
    padding, dilation = (
        _triple(_listed(call.attributes.get(k), spatial, other), other)
        for k, other in (("padding", 0), ("dilation", 1))
    )
    taps = _triple(list(w.shape[2:]), 1)
    if transposed:
        padding = _mirrored(padding, dilation, taps)
    aligned = 16 // width  # TMA's strides and addresses (CUDA driver API, tensor maps)
    if min(taken, filters) < _LEAST or taken % aligned or not _contiguous(w):
        return None
    image = _triple(list(x.shape[2:]), 1)
    last = x.strides[1] == 1 and not any(s % aligned for d, s in enumerate(x.strides) if d != 1)
    if last and not x.offset % aligned:
        places = _triple(list(x.strides[2:]), x.strides[0])
        strides = (*places, x.strides[0])
    elif _contiguous(x):
        last = False
        steps = (taken, image[0] * taken, image[0] * image[1] * taken)
        strides = (*steps, image[2] * steps[2])
    else:
        return None
    g = Geometry(x.shape[0], taken, filters, image, taps, padding, dilation, strides, not last, transposed)
    largest = max(math.prod(x.shape), x.shape[0] * filters * math.prod(g.result), math.prod(w.shape))
    return g if min(g.result) > 0 and g.result[0] >= 8 and largest <= 1 << 31 else None


def _mirrored(
    padding: tuple[int, int, int], dilation: tuple[int, int, int], taps: tuple[int, int, int]
) -> tuple[int, int, int]:
    """A transposed convolution's padding as that of the convolution by its filters mirrored."""
    w, h, d = (r * (k - 1) - p for p, r, k in zip(padding, dilation, taps, strict=True))
    return w, h, d


def _contiguous(operand: Operand) -> bool:
    """Whether the operand lies in PyTorch's default order; strides of dimensions of one element are any."""
    n, steps = operand.shape, operand.strides
    return all(n[d] == 1 or steps[d] == math.prod(n[d + 1 :]) for d in range(len(n)))


def span_of(operand: Operand) -> int:
    """Elements from an operand's first to its last."""
    return 1 + sum((n - 1) * s for n, s in zip(operand.shape, operand.strides, strict=True))


@frozen
class ConvolutionSchedule:
    """Tile (output channels, pixels; ``width`` of a box of pixels), ``depth`` in input channels, ``copies``
    of the image and ``stages`` of the filters in flight, blocks that share filters. Less than 64 channels
    make pixels the rows of products, of which wgmma has 64.

    ``columns`` is 2 where the taps of a column read one copy of the image and 1 where each has its own.
    """

    channels: int = 128
    pixels: int = 256
    width: int = 32
    depth: int = 32
    copies: int = 2
    stages: int = 4
    cluster: int = 1
    columns: int = 2

    def walk(self, g: Geometry) -> ConvolutionWalk:
        """How it walks a convolution."""
        shared = g.taps[1] if self.columns > 1 and self._can_share(g) else 1
        high, deep, images = self._box(g, shared)
        return ConvolutionWalk(
            g.filters, g.images, g.result, g.taps, g.padding, g.dilation, self.channels,
            (self.width, high, deep, images), self.cluster, shared, g.transposed,
        )  # fmt: skip

    def _can_share(self, g: Geometry) -> bool:
        rows = self.pixels // self.width + (g.taps[1] - 1) * g.dilation[1]
        return 1 < g.taps[1] <= _MOST_SHARED and rows <= _BOX

    def _box(self, g: Geometry, shared: int) -> tuple[int, int, int]:
        """Height, depth and images of a box. One that is shared has one plane of one image."""
        left = self.pixels // self.width
        if shared > 1:
            return left, 1, 1
        high = min(left, _power(g.result[1]))
        deep = min(left // high, _power(g.result[2]))
        return high, deep, left // (high * deep)

    def shared_bytes(self, g: Geometry, size: int) -> int:
        """Bytes of shared memory that a block has, ``size`` being an element's."""
        rows = self.copies * math.prod(self.walk(g).copied) + self.stages * self.channels
        return rows * self.depth * size + _KEPT_BYTES + _BARRIER_BYTES

    def sums(self, by_pixels: bool) -> int:
        """Float32 registers of a thread for results; ``by_pixels`` where the result's channels are last."""
        rows = self.pixels if by_pixels or self.channels < 64 else self.channels
        return self.channels * self.pixels // (128 * (1 if rows == 64 else 2))


_FIELDS = tuple(a.name for a in ConvolutionSchedule.__attrs_attrs__)


def _power(n: int) -> int:
    """The least power of two from ``n`` on."""
    return 1 << max(0, n - 1).bit_length()


def default_convolution(
    g: Geometry, size: int, processors: int, by_pixels: bool, given: Mapping[str, Any] | None = None
) -> ConvolutionSchedule:
    """A large tile where there are enough of them to occupy the device, smaller ones otherwise, with as many
    copies in flight as fit. ``given`` are fields that are fixed."""
    given = given or {}
    deepest = 128 // size
    s = ConvolutionSchedule(depth=deepest if g.taken > deepest // 2 else deepest // 2, stages=3)
    few = g.filters <= 64
    tiles = [(64, 256), (64, 128), (64, 64)] if few else [(128, 256), (128, 128), (64, 64)]
    if by_pixels:
        tiles = [(64, 128)] if few else [(128, 128) if g.filters <= 128 else (256, 128)]
        tiles += [(64, 64)]
    for channels, pixels in tiles:
        s = evolve(s, channels=channels, pixels=pixels)
        s = evolve(s, **{k: v for k, v in given.items() if k in ("channels", "pixels")})
        if s.walk(g).tiles >= processors:
            break
    while s.sums(by_pixels) > _SUMS_PER_THREAD:
        s = evolve(s, pixels=s.pixels // 2) if s.pixels > 64 else evolve(s, channels=s.channels // 2)
    widths = [w for w in (8, 16, 32, 64, 128) if w <= s.pixels]
    s = evolve(s, width=min(widths, key=lambda w: _effort(evolve(s, width=w), g)))
    # On an H100 neighbours that share filters took 3.49 ms and others 4.26 (8 x 64 x 512 x 1024, 3 x 3:
    # "cluster" in benchmarks/h100_convolutions.py).
    pairs = s.walk(g).tiles >= 2 * processors
    s = evolve(s, cluster=2 if pairs else 1)
    s = evolve(s, **{k: v for k, v in given.items() if k not in ("channels", "pixels")})
    s = evolve(s, width=min(s.width, s.pixels))
    if s.shared_bytes(g, size) > _SHARED_BYTES and "columns" not in given:
        s = evolve(s, columns=1)
    for name, most in (("stages", 4), ("copies", 3), ("stages", 6), ("copies", 4)):
        while name not in given and getattr(s, name) < most:
            more = evolve(s, **{name: getattr(s, name) + 1})
            if more.shared_bytes(g, size) > _SHARED_BYTES:
                break
            s = more
    return s


def _effort(s: ConvolutionSchedule, g: Geometry) -> float:
    """What a width of the box costs: pixels that are computed, those that are copied for them in the second
    place, and stores in many short rows. On an H100 boxes of 32, 64 and 128 took 2.54, 2.11 and 2.02 ms
    (8 x 64 x 512 x 1024, 3 x 3, 128 filters: "width" in benchmarks/h100_convolutions.py), which the last term
    follows; otherwise `estimated`."""
    walk = s.walk(g)
    computed = math.prod(walk.boxes) * walk.pixels
    copied = math.prod(walk.copied) / walk.pixels / walk.shared
    return computed * (1 + 0.2 * copied) * (1 + 13 / s.width)


def convolution_schedule_of(
    g: Geometry, point: Mapping[str, Any], size: int, processors: int, by_pixels: bool
) -> ConvolutionSchedule:
    """The schedule of a point (parameters named ``tile_…``), cut to what fits a block. What the point leaves
    open (0, or not there) is the default's. ``size``: bytes of an element."""
    given = {name: point[f"tile_{name}"] for name in _FIELDS if point.get(f"tile_{name}")}
    if by_pixels and given.get("channels", 64) < 64:  # pixels are rows already, and rows are stored 64 wide
        given["channels"] = 64
    s = default_convolution(g, size, processors, by_pixels, given)
    while s.shared_bytes(g, size) > _SHARED_BYTES and s.stages > 2:
        s = evolve(s, stages=s.stages - 1)
    while s.shared_bytes(g, size) > _SHARED_BYTES and s.copies > 2:
        s = evolve(s, copies=s.copies - 1)
    if s.shared_bytes(g, size) > _SHARED_BYTES:
        s = evolve(s, columns=1)
    while s.shared_bytes(g, size) > _SHARED_BYTES and s.pixels > 64:
        s = evolve(s, pixels=s.pixels // 2, width=min(s.width, s.pixels // 2))
    return evolve(s, width=min(s.width, s.pixels), depth=min(s.depth, 128 // size))


def convolution_space(call: LibraryCall, facts: Mapping[str, Any]) -> Space | None:
    """Tunables of a convolution on a device with ``facts``: by CuTe DSL or the library; None where the kernel
    does not take it. 0 leaves a size to the renderer, which knows the operands' type."""
    size = _known_size(call)
    g = geometry_of(call, size)
    if g is None or int(facts.get("compute_capability", _HOPPER)) != _HOPPER:
        return None
    # 1 x 1 filters are bound by memory, and moving the channels last doubles it: on an H100 7.8 ms against
    # cuDNN's 4.6 (16 x 64 x 1024 x 1024, 128 filters; benchmarks/h100_convolutions.py, 87).
    first = "generated" if g.taken >= _DEEP and (math.prod(g.taps) > 1 or not g.converts) else "library"
    parameters = (
        Parameter("implementation", ("library", "generated"), first),
        Parameter("tile_channels", (0, *_NARROW, 64, 128, 256), 0),
        Parameter("tile_pixels", (0, 64, 128, 256), 0),
        Parameter("tile_width", (0, 8, 16, 32, 64, 128), 0),
        Parameter("tile_depth", (0, 16, 32, 64), 0),
        Parameter("tile_copies", (0, 2, 3, 4), 0),
        Parameter("tile_stages", (0, 2, 3, 4, 6, 8), 0),
        Parameter("tile_cluster", (0, 1, 2), 0),
        Parameter("tile_columns", (0, 1, 2), 0),
        *((Parameter("tile_precision", ("tf32",), "tf32"),) if size == 4 else ()),
    )
    own = {p.name: p.default for p in parameters}
    processors = int(facts.get("multiprocessors", 132))
    last = bool(call.order) and call.order[-1] == 1
    # An epilogue may write the result in either order of memory.
    orders = (last,) if call.epilogue is None else (last, not last)

    def only_generated(p: Mapping[str, Any]) -> bool:
        return p["implementation"] == "generated" or all(
            p[name] == value for name, value in own.items() if name.startswith("tile_")
        )

    def fits(p: Mapping[str, Any]) -> bool:
        made = (convolution_schedule_of(g, p, size, processors, by_pixels) for by_pixels in orders)
        return any(
            all(p.get(f"tile_{name}") in (0, None, getattr(s, name)) for name in _FIELDS) for s in made
        )

    return Space(
        parameters,
        (
            Constraint("the library has no tile to choose", only_generated),
            Constraint(
                f"copies in flight fit {_SHARED_BYTES} bytes, and a thread keeps {_SUMS_PER_THREAD} sums",
                fits,
            ),
        ),
        ({"implementation": "generated", "tile_channels": narrow},) if (narrow := _narrow(g)) else (),
    )


def _narrow(g: Geometry) -> int:
    """The tile that few filters fill, 0 where 64 or more do. By pixels as rows, products read more of shared
    memory than by channels: what is saved is for measuring to say."""
    return next((n for n in _NARROW if g.filters <= n), 0)


def _known_size(call: LibraryCall) -> int:
    """Bytes of an element of the result, as far as an epilogue shows it; 4 where none does."""
    if call.epilogue is None:
        return 4
    loads = [e for x in call.epilogue.expressions() for e in walk(x) if isinstance(e, Load)]
    return next((itemsize(e.dtype) for e in loads if e.buffer == call.output), 4)

"""Convolutions in CuTe DSL: what is claimed and chosen, and the arithmetic of addresses, without a device."""

import itertools
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve

from kevolve_core.errors import UnsupportedError
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.ir import LibraryCall, Operand, Program
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.languages.triton.render.renderer import Foreign
from kevolve_core.synth import SynthGenerator, interpret
from kevolve_core.synth.program import Partition
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.cutedsl.convolution_renderer import printed_convolution
from kevolve_nvidia.cutedsl.convolution_schedule import (
    convolution_schedule_of,
    convolution_space,
    geometry_of,
)
from kevolve_nvidia.cutedsl.renderer import CuteRenderer
from kevolve_nvidia.cutedsl.walk import ConvolutionWalk, first_sum, laid_at, sum_at, taken_at
from kevolve_nvidia.facts import compile_only, target_of
from kevolve_nvidia.rendering import schedule_space

from .conftest import installed

HOPPER = compile_only("sm_90a")


def spec_of(expression: str, *shapes: tuple[int, ...], dtype: str = "float32") -> KernelSpec:
    names = "xwbr"[: len(shapes)]
    source = f"import torch\nimport torch.nn.functional as F\n\n\ndef f({', '.join(names)}):\n"
    source += f"    return {expression}\n"
    inputs = tuple(InputSpec(n, s, dtype=dtype) for n, s in zip(names, shapes, strict=True))
    return KernelSpec("convolution", Reference(source, "f"), (Case("main", inputs),))


def generator(spec: KernelSpec) -> SynthGenerator:
    return SynthGenerator(spec, {"cute": CuteRenderer()}, schedule_space, HOPPER)


# --- what stands for CuTe DSL, on a CPU ---------------------------------------------------------------------


class Numbers(np.ndarray):
    """Many values of an epilogue at a time."""

    def to(self, _: object) -> "Numbers":
        return self


def numbers(values: Any) -> Numbers:
    return np.asarray(values).view(Numbers)


class Convolution:
    """Stands for `HopperConvolution`: the same walk, on arrays."""

    def __init__(self, **given: Any) -> None:
        self.given = SimpleNamespace(**given)

    def __call__(self, image: Any, filters: Any, result: Any, more: tuple[Any, ...]) -> None:
        g, walk = self.given, self.given.walk
        taps = math.prod(walk.taps)
        strides = [8 * s for s in (*reversed(g.image), 1)]
        image = np.lib.stride_tricks.as_strided(image, (*reversed(g.extents), g.taken), strides)
        steps = [8 * s for s in (g.filters[1], g.filters[0], 1)]
        filters = np.lib.stride_tricks.as_strided(filters, (taps, walk.filters, g.taken), steps)
        by_pixels = g.d[4] == 1
        written = np.zeros(result.shape, dtype=int)
        for place, rank in itertools.product(range(walk.tiles), range(walk.cluster)):
            channel, first = walk.at(place, rank)
            sums = np.zeros((walk.tile, walk.pixels))
            for block, copy in itertools.product(range(-(-g.taken // g.depth)), range(walk.copies)):
                box = boxed(image, walk.corner(first, copy), walk.copied, block * g.depth, g.depth)
                for row in range(walk.shared):
                    near = walk.skipped(row)
                    taken = filters[walk.tap(copy, row)]
                    taken = taken[channel : channel + walk.tile, block * g.depth :][:, : g.depth]
                    found = taken @ box[near : near + walk.pixels, : taken.shape[1]].T
                    sums[: len(taken)] += found
            sums = sums.T if by_pixels else sums
            row, column = (v.reshape(-1) for v in np.meshgrid(*map(np.arange, sums.shape), indexing="ij"))
            x, y, z, n = (a + b for a, b in zip(first, walk.pixel(row if by_pixels else column), strict=True))
            c = channel + (column if by_pixels else row)
            kept = (c < walk.filters) & walk.inside(x, y, z, n)
            c, x, y, z, n = (numbers(v[kept]) for v in (c, x, y, z, n))
            value = g.epilogue(numbers(sums.reshape(-1)[kept]), g.constants(c, more), x, y, z, n, c, more)
            to = sum(v * s for v, s in zip((x, y, z, n, c), g.d, strict=True))
            result[to] = value
            np.add.at(written, to, 1)
            # Pairs of columns that are stored at once are neighbours and begin at an even position.
            pair = column[kept] % 2 == 0
            assert g.vector == 1 or (not (to[pair] % 2).any() and (to[~pair] == to[pair] + 1).all())
        assert (written == 1).all()


def boxed(image: Any, corner: Any, box: Any, channel: int, depth: int) -> Any:
    """A box of an (image, z, y, x, channel) array as (pixel, channel), zeros outside of the image."""
    out = np.zeros((*reversed(box), depth))
    near = [max(0, -c) for c in reversed(corner)]
    far = [min(b, n - c) for b, n, c in zip(reversed(box), image.shape, reversed(corner), strict=False)]
    if all(a < b for a, b in zip(near, far, strict=True)):
        to = tuple(slice(a, b) for a, b in zip(near, far, strict=True))
        of = tuple(slice(c + a, c + b) for c, a, b in zip(reversed(corner), near, far, strict=True))
        kept = image[of][..., channel : channel + depth]
        out[to][..., : kept.shape[-1]] = kept
    return out.reshape(-1, depth)


def channels_last(tensor: Any, shape: tuple[int, ...], steps: tuple[int, int]) -> Any:
    out = np.full(tensor.size, np.nan)
    to = np.lib.stride_tricks.as_strided(out, (shape[0], shape[2], shape[1]), [8 * s for s in (*steps, 1)])
    to[...] = tensor.reshape(shape).transpose(0, 2, 1)
    return out


CUTLASS = SimpleNamespace(
    Float32=lambda v: v, select_=lambda c, a, b: numbers(np.where(c, a, b)), TFloat32="tf32", BFloat16="bf16"
)
CUTE = SimpleNamespace(math=SimpleNamespace(tanh=np.tanh, exp=np.exp))


def run(call: LibraryCall, program: Program, memory: Any, point: Mapping[str, Any]) -> bool:
    """Execute the printed step in an interpreter's memory. Says whether its epilogue was fused."""
    step = printed_convolution(call, program, point, 132)
    assert step is not None
    scope: dict[str, Any] = {
        "cutlass": CUTLASS, "cute": CUTE,
        "HopperConvolution": Convolution, "ConvolutionWalk": ConvolutionWalk,
        "_flat": lambda t, span=0, offset=0: t[offset : offset + (span or t.size)],
        "_channels_last": channels_last, "_call": lambda _, function, *given: function(*given),
    }  # fmt: skip
    exec(step.text("step", {b: b for b in step.buffers}), scope)
    *read, written = step.buffers
    given = [numbers(memory.data[name].double().numpy()) for name in read]
    result = np.full(memory.data[written].shape, np.nan)
    scope["step"](*given, result)
    memory.data[written] = torch.from_numpy(result).float()
    return not step.rest


CASES: Mapping[str, tuple[Any, ...]] = {
    "plain": ("F.conv2d(x, w)", (2, 20, 19, 21), (24, 20, 3, 3)),
    "padded and dilated": (
        "F.conv2d(x, w, b, padding=(2, 3), dilation=(1, 2))", (2, 16, 17, 30), (72, 16, 3, 5), (72,),
    ),
    "bias, activation, another tensor": (
        "torch.tanh(F.conv2d(x, w, b, padding=1)) * 0.5 + r",
        (3, 36, 12, 14), (20, 36, 3, 3), (20,), (3, 20, 12, 14),
    ),
    "one dimension": ("F.conv1d(x, w, padding=2).relu()", (3, 16, 50), (16, 16, 5)),
    "three dimensions": ("F.conv3d(x, w, padding=1)", (2, 16, 5, 6, 11), (32, 16, 2, 3, 3)),
    "one tap, small images": ("F.conv2d(x, w).relu()", (5, 32, 7, 9), (80, 32, 1, 1)),
    "transposed": (
        "F.conv_transpose2d(x, w, b, padding=(1, 0)).relu()", (2, 20, 13, 17), (20, 24, 3, 5), (24,),
    ),
    "transposed and dilated, one dimension": (
        "F.conv_transpose1d(x, w, padding=4, dilation=3)", (2, 16, 40), (16, 24, 4),
    ),
    "transposed, cut off at the edges": (
        "F.conv_transpose2d(x, w, padding=(3, 2), dilation=(2, 1))", (2, 16, 15, 20), (16, 20, 2, 2),
    ),
    "transposed, three dimensions": (
        "F.conv_transpose3d(x, w, b, padding=(0, 1, 2))", (2, 16, 3, 5, 11), (16, 20, 2, 3, 4), (20,),
    ),
    "transposed, one tap": ("F.conv_transpose2d(x, w) * 2.0", (2, 32, 7, 9), (32, 40, 1, 1)),
    "two in a row": ("F.conv2d(F.conv2d(x, w, b).relu(), w)", (2, 32, 18, 20), (32, 32, 3, 3), (32,)),
}  # fmt: skip
POINTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"tile_channels": 64, "tile_pixels": 128, "tile_width": 8},
    {"tile_channels": 128, "tile_pixels": 64, "tile_columns": 1, "tile_cluster": 2, "tile_depth": 16},
    {"tile_channels": 48, "tile_pixels": 128},
)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_printed_convolution_computes_the_reference(
    name: str, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expression, *shapes = CASES[name]
    spec = spec_of(expression, *shapes)
    (program,) = generator(spec).programs(Partition(channels_last=last))
    calls = {s.name: s for s in program.steps if isinstance(s, LibraryCall)}
    bare = evolve(
        program, steps=tuple(evolve(s, epilogue=None) if s.name in calls else s for s in program.steps)
    )
    torch.manual_seed(0)
    given = [torch.randn(s) for s in shapes]
    scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
    names = (i.name for i in spec.cases[0].inputs)
    wanted = eval(expression, scope, dict(zip(names, [t.double() for t in given], strict=True))).float()
    for point in POINTS:
        fused: list[bool] = []

        def own(step: LibraryCall, memory: Any, point: Any = point, fused: list[bool] = fused) -> None:
            fused.append(run(calls[step.name], program, memory, point))

        monkeypatch.setattr(interpret, "_call", own)
        found = interpret.run_program(bare, given)
        assert fused == [True] * len(calls)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shared", [1, 3])
@pytest.mark.parametrize("padding", [(0, 0, 0), (2, 1, 1)])
def test_taps_of_a_transposed_convolution_meet_the_pixels_that_they_spread(
    shared: int, padding: tuple[int, int, int]
) -> None:
    taps, dilation = (4, 3, 2), (2, 3, 1)  # width, height, depth
    image, weight = torch.randn(1, 1, 3, 5, 12).double(), torch.randn(1, 1, *reversed(taps)).double()
    given = {"padding": tuple(reversed(padding)), "dilation": tuple(reversed(dilation))}
    wanted = torch.nn.functional.conv_transpose3d(image, weight, **given)[0, 0]
    near = tuple(r * (k - 1) - p for r, k, p in zip(dilation, taps, padding, strict=True))
    (w, h, d), flat = reversed(wanted.shape), weight.flatten()
    walk = ConvolutionWalk(1, 1, (w, h, d), taps, near, dilation, 64, (8, 8, 1, 1), 1, shared, True)
    found = torch.zeros_like(wanted)
    for x, y, z in itertools.product(range(w), range(h), range(d)):
        for copy, row in itertools.product(range(walk.copies), range(shared)):
            i, j, k, _ = walk.corner((x, y, z, 0), copy)
            j += walk.skipped(row) // walk.box[0]
            if 0 <= i < 12 and 0 <= j < 5 and 0 <= k < 3:
                found[z, y, x] += image[0, 0, k, j, i] * flat[walk.tap(copy, row)]
    torch.testing.assert_close(found, wanted)


def test_every_sum_of_a_tile_is_stored_once_from_where_its_thread_laid_it() -> None:
    for rows, columns, joined in ((64, 256, 1), (128, 128, 1), (128, 256, 2), (256, 64, 2)):
        thread = np.arange(128 * joined)
        row, column = first_sum(thread)
        seen = np.zeros((rows, columns), dtype=int)
        numbers_seen = set()
        for block, half, eight in itertools.product(
            range(rows // (64 * joined)), range(2), range(columns // 8)
        ):
            numbers_seen |= {sum_at(block, half, eight, columns) + j for j in range(2)}
            # As the kernel reads a warp's 8 rows back: from that of its lane 0 on.
            assert (row - thread % 32 // 4 == row - row % 8).all()
            for j in range(2):
                seen[row + block * 64 * joined + half * 8, column + eight * 8 + j] += 1
        assert (seen == 1).all()
        assert numbers_seen == set(range(rows * columns // len(thread)))


def test_sums_of_a_tile_of_few_channels_are_turned() -> None:
    for rows, columns, joined in ((64, 16, 1), (128, 48, 2), (256, 32, 2)):
        sums = np.arange(rows * columns).reshape(rows, columns)  # pixels by channels
        stored = np.full((columns, rows), -1)
        thread = np.arange(128 * joined)
        row, column = first_sum(thread)
        lane, warp = thread % 32, thread // 32
        held = np.zeros((len(thread), rows * columns // len(thread)), dtype=int)
        for block, half, eight, j in itertools.product(
            range(rows // (64 * joined)), range(2), range(columns // 8), range(2)
        ):
            of = row + block * 64 * joined + half * 8, column + eight * 8 + j
            held[:, sum_at(block, half, eight, columns) + j] = sums[of]
        for block, chunk in itertools.product(range(rows // (64 * joined)), range(columns // 16)):
            kept = np.full((4 * joined, 16, 16), -1)
            for half, eight, j in itertools.product(range(2), range(2), range(2)):
                channel, pixel = laid_at(lane, half, eight)
                kept[warp, channel + j, pixel] = held[:, sum_at(block, half, chunk * 2 + eight, columns) + j]
            for four, j in itertools.product(range(4), range(2)):
                channel, pixel = taken_at(lane, four)
                to = chunk * 16 + channel, row - lane // 4 + block * 64 * joined + pixel + j
                assert (stored[to] == -1).all()
                stored[to] = kept[warp, channel, pixel + j]
        np.testing.assert_array_equal(stored, sums.T)


# --- what is claimed, and how -------------------------------------------------------------------------------


def call_of(image: tuple[int, ...], weight: tuple[int, ...], **given: Any) -> LibraryCall:
    """A convolution of contiguous operands."""
    dense = [tuple(math.prod(s[d + 1 :]) for d in range(len(s))) for s in (image, weight)]
    operands = Operand("x", image, dense[0]), Operand("w", weight, dense[1])
    return LibraryCall("lib_convolution", "aten::convolution", operands, "y", given)


@pytest.mark.parametrize(
    ("image", "weight", "given"),
    [
        ((2, 16, 32, 32), (16, 16, 3, 3), {"stride": [2, 2]}),
        ((2, 32, 32, 32), (32, 16, 3, 3), {"groups": 2}),
        ((2, 16, 32, 32), (16, 16, 3, 3), {"transposed": True, "stride": [2, 2]}),
        ((2, 32, 32, 32), (32, 16, 3, 3), {"transposed": True, "groups": 2}),
        ((2, 16, 32, 32), (16, 16, 3, 3), {"transposed": True, "dilation": [2, 2], "output_padding": [1, 1]}),
        ((2, 16, 8, 8), (16, 16, 3, 3), {"transposed": True, "padding": [2, 2]}),  # 6 pixels a row
        ((2, 3, 32, 32), (64, 3, 3, 3), {}),
        ((2, 18, 32, 32), (64, 18, 3, 3), {}),  # pixels of 72 bytes: no tensor map
        ((2, 64, 7, 7), (64, 64, 3, 3), {}),
        ((64, 64, 1024, 1024), (16, 64, 1, 1), {}),  # positions over 2**31
    ],
)
def test_other_convolutions_stay_with_the_library(
    image: tuple[int, ...], weight: tuple[int, ...], given: Mapping[str, Any]
) -> None:
    call = call_of(image, weight, **given)
    assert geometry_of(call, 4) is None
    assert convolution_space(call, HOPPER.facts) is None


def test_the_last_position_may_be_that_of_32_bits() -> None:
    assert geometry_of(call_of((16, 64, 1024, 1024), (128, 64, 1, 1)), 4) is not None
    assert geometry_of(call_of((16, 64, 1024, 1024), (132, 64, 1, 1)), 4) is None


def test_what_the_kernel_never_takes_keeps_the_choices_of_triton() -> None:
    call = call_of((2, 16, 32, 32), (16, 16, 3, 3), transposed=True, stride=[2, 2])
    cute, triton = (schedule_space(call, HOPPER, language) for language in ("cute", "triton"))
    assert [p.name for p in cute.parameters] == [p.name for p in triton.parameters]
    assert cute.default() == triton.default()


def test_a_convolution_beside_one_that_is_taken_may_be_triton_s() -> None:
    spec = spec_of(
        "F.conv2d(F.conv_transpose2d(x, w, stride=2), b)", (2, 32, 20, 20), (32, 32, 3, 3), (32, 32, 3, 3)
    )
    (program,) = generator(spec).programs()
    first, second = (s for s in program.steps if isinstance(s, LibraryCall))
    point = {**schedule_space(first, HOPPER, "cute").default(), "implementation": "generated"}
    claimed = CuteRenderer()._claimed(first, program, point)
    assert claimed == point
    assert isinstance(CuteRenderer()._claimed(second, program, {}), Foreign)


def test_a_strided_convolution_is_left_to_other_languages() -> None:
    made = generator(spec_of("F.conv2d(x, w, stride=2)", (2, 16, 33, 33), (32, 16, 3, 3)))
    with pytest.raises(UnsupportedError) as raised:
        made.check()
    assert "no matrix product or convolution" in str(raised.value.got)


def test_an_epilogue_that_reduces_follows_in_triton() -> None:
    spec = spec_of("F.conv2d(x, w).softmax(1)", (2, 32, 34, 34), (32, 32, 3, 3))
    text = generator(spec).default().files["kernel.py"]
    assert (text.count(" = HopperConvolution("), "@triton.jit" in text) == (1, True)


def test_every_schedule_fits_a_block_and_the_default_is_legal() -> None:
    for image, weight in (
        ((8, 64, 512, 1024), (128, 64, 3, 3)), ((8, 16, 1024, 1024), (128, 16, 3, 3)),
        ((8, 64, 512, 256), (128, 64, 5, 7)), ((4, 512, 14, 14), (512, 512, 3, 3)),
        ((4, 32, 24, 48, 48), (64, 32, 11, 11, 11)),
    ):  # fmt: skip
        call = call_of(image, weight, padding=[1] * (len(image) - 2))
        space, g = convolution_space(call, HOPPER.facts), geometry_of(call, 4)
        assert g is not None
        assert space is not None
        assert space.is_legal(space.default())
        for channels, pixels, width, last in itertools.product(
            (64, 128, 256), (64, 128, 256), (0, 8, 128), (0, 1)
        ):
            point = {"tile_channels": channels, "tile_pixels": pixels, "tile_width": width, "tile_stages": 8}
            s = convolution_schedule_of(g, point, 4, 132, bool(last))
            assert (s.shared_bytes(g, 4) <= 227 << 10, s.sums(bool(last)) <= 128) == (True, True)
            assert max(s.walk(g).copied) <= 256


def test_few_input_channels_start_with_the_library() -> None:
    for channels, first in ((16, "library"), (32, "generated")):
        space = convolution_space(call_of((8, channels, 64, 64), (64, channels, 3, 3)), HOPPER.facts)
        assert space is not None
        assert space.default()["implementation"] == first


def test_few_filters_have_a_tile_of_their_own() -> None:
    g = geometry_of(call_of((8, 64, 512, 1024), (64, 64, 3, 3)), 4)
    assert g is not None
    s = convolution_schedule_of(g, {}, 4, 132, False)
    assert (s.channels, s.pixels, s.width, s.cluster) == (64, 256, 128, 2)


def test_less_filters_than_wgmma_has_rows_try_a_tile_of_their_own() -> None:
    for filters, tile in ((16, 16), (24, 32), (48, 48), (64, 0)):
        space = convolution_space(call_of((8, 64, 64, 64), (filters, 64, 3, 3)), HOPPER.facts)
        assert space is not None
        assert [s["tile_channels"] for s in space.started()] == [tile] * bool(tile)
        assert space.default()["tile_channels"] == 0


def test_rows_of_results_with_channels_last_are_whole() -> None:
    g = geometry_of(call_of((8, 64, 64, 64), (32, 64, 3, 3)), 4)
    assert g is not None
    tiles = [convolution_schedule_of(g, {"tile_channels": 32}, 4, 132, last).channels for last in (0, 1)]
    assert tiles == [32, 64]


def test_other_architectures_keep_the_choices_of_triton() -> None:
    call = call_of((8, 64, 64, 64), (64, 64, 3, 3))
    assert convolution_space(call, compile_only("sm_100a").facts) is None


@installed
@pytest.mark.parametrize(
    ("expression", "shapes", "dtype", "products"),
    [
        ("torch.relu(F.conv2d(x, w, b))", ((2, 40, 33, 37), (72, 40, 3, 3), (72,)), "float32", 12),
        ("F.conv2d(x, w, padding=1)", ((2, 64, 32, 32), (128, 64, 3, 3)), "bfloat16", 12),
        (
            "torch.relu(F.conv_transpose2d(x, w, b, padding=1))",
            ((2, 40, 33, 37), (40, 72, 3, 3), (72,)), "float32", 12,
        ),
    ],
)  # fmt: skip
def test_convolutions_are_wgmma_fed_by_tma(
    compiler: NvidiaCompiler, expression: str, shapes: tuple[tuple[int, ...], ...], dtype: str, products: int
) -> None:
    spec = spec_of(expression, *shapes, dtype=dtype)
    candidate = generator(spec).default()
    assert (check_candidate(candidate), candidate.libraries) == ((), ())
    artifact = compiler.compile(candidate, spec, spec.cases[0], target_of("sm_90a"))
    kernels: Mapping[str, Any] = artifact.facts["kernels"]
    (facts,) = (f for k, f in kernels.items() if k.startswith("HopperConvolution"))
    # A copy of the image serves three taps: their filters are three more copies.
    assert (facts["sass"]["tensor_hgmma"], facts["sass"]["tensor_copy"]) == (products, 4)
    assert facts["spill_bytes"] == 0
    assert 0 < facts["shared_bytes"] <= 227 << 10

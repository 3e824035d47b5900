"""What `synth` writes in CUDA C++ and CuTe DSL, up to the cubin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from kevolve_core.bundle.export import export
from kevolve_core.errors import UnsupportedError
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.interfaces import Proposal
from kevolve_core.ir import Axis, LibraryCall, LoopNest, Operand
from kevolve_core.isolate.entry import EntryModules
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.languages.triton import Launch, TritonRenderer, TritonTarget, compile_launch, record
from kevolve_core.model import Candidate
from kevolve_core.synth import SynthGenerator
from kevolve_core.synth.program import Partition
from kevolve_nvidia.architectures import architecture
from kevolve_nvidia.binary import kernel_facts
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.cudacpp.renderer import CudaRenderer
from kevolve_nvidia.cudacpp.schedule import default_rows, row_schedule, row_space
from kevolve_nvidia.cutedsl.renderer import CuteRenderer
from kevolve_nvidia.cutedsl.schedule import ProductSchedule, product_space, schedule_of
from kevolve_nvidia.facts import compile_only, target_of
from kevolve_nvidia.nvrtc import compile_cuda
from kevolve_nvidia.rendering import schedule_space
from kevolve_nvidia.standalone import loader_source

from .conftest import installed

HOPPER = compile_only("sm_90a")
GOLDEN = Path(__file__).parent / "golden"

REFERENCES = {
    "softmax": "torch.softmax(x, -1)",
    "layer_norm": "F.layer_norm(x, (x.shape[-1],))",
    "rms_norm": "x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)",
    "gelu": "F.gelu(x) + x",
    "amax": "x.amax(-1)",
    "column_sum": "x.sum(0)",
    "cumsum": "x.cumsum(-1)",
    "mm": "x @ y",
    "mm_bias_relu": "torch.relu(x @ y + y[0])",
    "mm_softmax": "torch.softmax(x @ y, -1)",
    "mm_transposed": "(x @ y).t().contiguous()",
    "bmm": "torch.bmm(x, y) * 0.5",
    "convolution": "F.conv2d(x, y).tanh()",
}


def spec_of(name: str, *shapes: tuple[int, ...], dtype: str = "float32") -> KernelSpec:
    names = ("x", "y")[: len(shapes)]
    source = f"def f({', '.join(names)}):\n    return {REFERENCES[name]}\n"
    source = f"import torch\nimport torch.nn.functional as F\n\n\n{source}"
    inputs = tuple(InputSpec(n, s, dtype=dtype) for n, s in zip(names, shapes, strict=True))
    return KernelSpec(name, Reference(source, "f"), (Case("main", inputs),))


def generator(spec: KernelSpec, renderer: Any) -> SynthGenerator:
    return SynthGenerator(spec, {renderer.language: renderer}, schedule_space, HOPPER)


def cuda_facts(candidate: Candidate, tmp_path: Path) -> dict[str, Any]:
    """Facts of the only kernel."""
    arch = architecture("sm_90a")
    cubin, ptx, _ = compile_cuda("kernel.cu", dict(candidate.files), arch)
    (tmp_path / "x.cubin").write_bytes(cubin)
    (facts,) = kernel_facts(tmp_path / "x.cubin", arch, threads={}, shared={}, ptx=ptx).values()
    return facts


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "wide"),
    [
        ("softmax", (64, 4096), "float32", (True, True)),
        ("softmax", (64, 4096), "bfloat16", (True, True)),
        ("softmax", (37, 1003), "float16", (False, False)),
        ("softmax", (512, 8192), "float32", (True, True)),
        ("layer_norm", (3, 7, 256), "float32", (True, True)),
        ("rms_norm", (64, 4096), "float32", (True, True)),
        ("gelu", (64, 4096), "bfloat16", (True, True)),
        ("amax", (64, 512), "float32", (True, False)),
        ("amax", (64, 512), "int32", (True, False)),
        ("column_sum", (512, 64), "float64", (False, False)),
    ],
)
def test_row_kernels_have_16_byte_accesses_and_do_not_spill(
    name: str, shape: tuple[int, ...], dtype: str, wide: tuple[bool, bool], tmp_path: Path
) -> None:
    candidate = generator(spec_of(name, shape, dtype=dtype), CudaRenderer()).default()
    assert check_candidate(candidate) == ()
    facts = cuda_facts(candidate, tmp_path)
    found = tuple(bool(facts["sass"].get(f"wide_{way}_global", 0)) for way in ("load", "store"))
    assert (found, facts["spill_bytes"]) == (wide, 0)


def test_a_row_is_read_once(tmp_path: Path) -> None:
    """Softmax of 4096 columns over 256 threads: four loads of four columns a thread, and as many stores."""
    candidate = generator(spec_of("softmax", (64, 4096)), CudaRenderer()).default()
    sass = cuda_facts(candidate, tmp_path)["sass"]
    assert (sass["load_global"], sass["store_global"]) == (4, 4)


def test_a_row_kernel_is_written_as_it_was() -> None:
    candidate = generator(spec_of("softmax", (64, 512)), CudaRenderer()).default()
    kernel = candidate.files["kernel.cu"].partition("// _softmax")[2]
    assert kernel == (GOLDEN / "softmax.cu").read_text()


def test_what_no_row_kernel_computes_is_left_to_other_languages() -> None:
    with pytest.raises(UnsupportedError) as raised:
        generator(spec_of("cumsum", (64, 512)), CudaRenderer()).check()
    assert "Scan" in str(raised.value.got)


def test_a_library_call_alone_is_left_to_other_languages() -> None:
    with pytest.raises(UnsupportedError) as raised:
        generator(spec_of("mm", (64, 64), (64, 64)), CudaRenderer()).check()
    assert "only library calls" in str(raised.value.got)


def test_an_exported_row_kernel_is_one_file() -> None:
    candidate = generator(spec_of("softmax", (64, 512)), CudaRenderer()).default()
    text = export(candidate, loader_source())
    assert ("kevolve_core" in text, "k_softmax(" in text) == (False, True)


def only_nest(name: str, *shapes: tuple[int, ...]) -> LoopNest:
    (step,) = generator(spec_of(name, *shapes), CudaRenderer()).programs()[0].steps
    assert isinstance(step, LoopNest)
    return step


def test_every_schedule_of_a_row_is_legal_and_holds_it() -> None:
    nest = only_nest("softmax", (64, 3000))
    space = row_space(nest)
    assert space.is_legal(space.default())
    for point in space.neighbours(space.default()):
        s = row_schedule(nest, point)
        assert s.lanes * s.vector * s.chunks >= 3000
        assert s.threads % s.lanes == 0


def test_a_schedule_for_short_rows_still_holds_long_ones() -> None:
    short = only_nest("softmax", (64, 512))
    long = evolve(short, axes=(short.axes[0], Axis(short.axes[1].name, 65536)))
    s = row_schedule(long, row_space(short).default())
    assert (s.lanes, s.threads, s.lanes * s.vector * s.chunks) == (1024, 1024, 65536)
    assert default_rows(long) == s


# --- CuTe DSL -----------------------------------------------------------------------------------------------


def cute_text(name: str, *shapes: tuple[int, ...], dtype: str = "float32") -> str:
    return generator(spec_of(name, *shapes, dtype=dtype), CuteRenderer()).default().files["kernel.py"]


def test_a_pointwise_epilogue_is_fused_into_the_product() -> None:
    text = cute_text("mm_bias_relu", (256, 128), (128, 512))
    assert "@triton.jit" not in text
    assert "# mm, add, relu: 256 x 512 x 128" in text


def test_another_epilogue_follows_in_triton() -> None:
    text = cute_text("mm_softmax", (256, 128), (128, 512))
    assert (text.count("    _launch(ready, "), text.count(" = HopperProduct(")) == (1, 1)


@pytest.mark.parametrize(
    ("name", "shapes", "dtype"),
    [
        ("softmax", ((64, 64),), "float32"),
        ("mm", ((64, 60), (60, 64)), "bfloat16"),  # rows of 120 bytes: no tensor map
        ("mm", ((64, 64), (64, 64)), "float64"),
        ("mm", ((8, 64), (64, 64)), "float16"),
    ],
)
def test_a_program_without_a_fitting_product_is_left_to_other_languages(
    name: str, shapes: tuple[tuple[int, ...], ...], dtype: str
) -> None:
    with pytest.raises(UnsupportedError) as raised:
        generator(spec_of(name, *shapes, dtype=dtype), CuteRenderer()).check()
    assert "no matrix product" in str(raised.value.got)


@installed
@pytest.mark.parametrize(
    ("name", "shapes", "dtype", "products"),
    [
        ("mm_bias_relu", ((200, 136), (136, 264)), "float16", 4),
        ("bmm", ((3, 128, 128), (3, 128, 256)), "float32", 12),
    ],
)
def test_products_are_wgmma_fed_by_tma(
    compiler: NvidiaCompiler, name: str, shapes: tuple[tuple[int, ...], ...], dtype: str, products: int
) -> None:
    spec = spec_of(name, *shapes, dtype=dtype)
    candidate = generator(spec, CuteRenderer()).default()
    assert check_candidate(candidate) == ()
    artifact = compiler.compile(candidate, spec, spec.cases[0], target_of("sm_90a"))
    kernels: Mapping[str, Any] = artifact.facts["kernels"]
    (facts,) = (f for k, f in kernels.items() if k.startswith("HopperProduct"))
    # The first step of the depth is written out before the loop over the others.
    assert facts["sass"]["tensor_hgmma"] == 2 * products
    assert (facts["spill_bytes"], facts["sass"]["tensor_copy"] > 0) == (0, True)
    assert 0 < facts["shared_bytes"] <= 227 << 10


@pytest.mark.parametrize(("dtype", "causal"), [("float16", True), ("float32", False)])
def test_attention_is_one_kernel_on_matrix_units(compiler: NvidiaCompiler, dtype: str, causal: bool) -> None:
    call = f"F.scaled_dot_product_attention(q, k, v, is_causal={causal})"
    source = f"import torch.nn.functional as F\n\n\ndef f(q, k, v):\n    return {call}\n"
    inputs = tuple(InputSpec(name, (2, 4, 500, 64), dtype=dtype) for name in "qkv")
    spec = KernelSpec("attention", Reference(source, "f"), (Case("main", inputs),))
    candidate = generator(spec, TritonRenderer()).default()
    assert (candidate.libraries, check_candidate(candidate)) == ((), ())
    artifact = compiler.compile(candidate, spec, spec.cases[0], target_of("sm_90a"))
    (facts,) = artifact.facts["kernels"].values()
    assert (facts["sass"]["tensor_hgmma"] > 0, facts["spill_bytes"]) == (True, 0)


def launch_of(
    spec: KernelSpec, arch: str, point: Mapping[str, Any], folder: Path
) -> tuple[Launch, frozenset[str]]:
    """The only launch of a product at ``point``, and what its space offers on ``arch``."""
    device, renderer = compile_only(arch), TritonRenderer()
    programs = SynthGenerator(spec, {"triton": renderer}, schedule_space, device).programs()
    (step,) = programs[0].steps
    (folder / "kernel.py").write_text(renderer.render(spec, programs, {step.name: point}).files["kernel.py"])
    target = TritonTarget("cuda", architecture(arch).capability)
    inputs = [
        torch.empty(i.shape, dtype=getattr(torch, i.dtype), device="meta") for i in spec.cases[0].inputs
    ]
    modules = EntryModules()
    try:
        (launch,) = record(modules.load(folder, "kernel.py").f, inputs, target=target)
    finally:
        modules.reset()
    return launch, frozenset(p.name for p in schedule_space(step, device, "triton").parameters)


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a"])
@pytest.mark.parametrize(
    ("name", "shapes", "dtype", "more"),
    [
        ("mm", ((200, 128), (128, 264)), "bfloat16", {"tile_programs": 4}),
        ("mm", ((200, 128), (128, 264)), "float32", {"tile_precision": "tf32x3"}),
        ("bmm", ((3, 200, 128), (3, 128, 264)), "float32", {"tile_precision": "bf16x6", "tile_chunk": 2}),
    ],
)
def test_descriptors_of_products_are_copied_by_tma(
    arch: str, name: str, shapes: tuple[tuple[int, ...], ...], dtype: str, more: Mapping[str, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    point = {"implementation": "generated", "tile_loads": "descriptors", "tile_num_stages": 3, **more}
    launch, offered = launch_of(spec_of(name, *shapes, dtype=dtype), arch, point, tmp_path)
    ptx = compile_launch(launch).asm["ptx"]
    assert "tile_loads" in offered
    assert "cp.async.bulk.tensor" in ptx
    assert "ld.global" not in ptx


def test_descriptors_are_not_offered_where_hardware_does_not_read_them(tmp_path: Path) -> None:
    spec = spec_of("mm", (64, 64), (64, 64))
    _, offered = launch_of(spec, "sm_80", {"implementation": "generated"}, tmp_path)
    assert "tile_loads" not in offered


@pytest.mark.parametrize(("arch", "legal"), [("sm_80", True), ("sm_90a", False), ("sm_100a", True)])
def test_two_groups_of_warps_share_no_rows_of_attention_on_hopper(arch: str, legal: bool) -> None:
    call = "F.scaled_dot_product_attention(q, k, v)"
    source = f"import torch.nn.functional as F\n\n\ndef f(q, k, v):\n    return {call}\n"
    inputs = tuple(InputSpec(name, (2, 4, 512, 96)) for name in "qkv")
    spec = KernelSpec("attention", Reference(source, "f"), (Case("main", inputs),))
    device = compile_only(arch)
    made = SynthGenerator(spec, {"triton": TritonRenderer()}, schedule_space, device)
    (step,) = made.programs(Partition(attention=True))[0].steps
    space = schedule_space(step, device, "triton")
    shared = {**space.default(), "block_m": 64, "block_n": 16, "num_warps": 8, "num_stages": 1}
    assert (space.is_legal(space.default()), space.is_legal(shared)) == (True, legal)


def test_languages_without_a_kernel_for_attention_are_given_its_parts() -> None:
    source = "import torch\n\n\ndef f(q, k, v):\n    return torch.softmax(q @ k.mT, -1) @ v\n"
    inputs = tuple(InputSpec(name, (2, 64, 64)) for name in "qkv")
    spec = KernelSpec("attention", Reference(source, "f"), (Case("main", inputs),))
    for renderer, fused in ((TritonRenderer(), True), (CudaRenderer(), False), (CuteRenderer(), False)):
        candidate = generator(spec, renderer).default()
        assert dict(candidate.genome or {})["partition"].get("attention", False) == fused
        assert candidate.libraries == (() if fused or renderer.language == "cute" else ("aten::bmm",))


def call_of(m: int, n: int, k: int) -> LibraryCall:
    operands = Operand("x", (m, k), (k, 1)), Operand("y", (k, n), (n, 1))
    return LibraryCall("lib_mm", "aten::mm", operands, "mm")


def test_a_schedule_is_cut_to_what_fits_a_block() -> None:
    point = {"tile_rows": 256, "tile_cols": 256, "tile_depth": 64, "tile_stages": 8}
    s = schedule_of(call_of(4096, 4096, 4096), point, 3, 132)
    assert (s.sums(3) <= 192, s.shared_bytes(3) <= 227 << 10) == (True, True)


def test_a_large_product_has_large_tiles_and_a_small_one_more_of_them() -> None:
    assert schedule_of(call_of(8192, 8192, 8192), {}, 1, 132) == ProductSchedule(128, 256, 64, 4, 2, 8)
    assert schedule_of(call_of(4096, 4096, 4096), {}, 3, 132) == ProductSchedule(128, 128, 32, 4, 2, 8)
    assert schedule_of(call_of(256, 256, 256), {}, 1, 132).rows == 64


def test_other_architectures_are_offered_the_library_alone() -> None:
    space = product_space(call_of(256, 256, 256), compile_only("sm_100a").facts)
    assert space.default() == {"implementation": "library"}
    hopper = product_space(call_of(256, 256, 256), HOPPER.facts)
    assert hopper.is_legal(hopper.default())


def test_convolutions_start_channels_last_and_row_kernels_in_the_reference_s_order() -> None:
    spec = spec_of("convolution", (2, 8, 9, 9), (16, 8, 3, 3))
    renderers = {"triton": TritonRenderer(), "cuda": CudaRenderer()}
    made = SynthGenerator(spec, renderers, schedule_space, HOPPER)
    (call,) = [s for s in made.programs()[0].steps if isinstance(s, LibraryCall)]
    assert call.order == (0, 2, 3, 1)
    assert CudaRenderer().declines(made.programs()) == "a nest runs across memory"
    drafts = [made.propose_now(Proposal(spec, HOPPER, k, 0), 1)[0] for k in range(3)]
    assert [c.origin.notes["rewrites"] for c in drafts] == ["channels_last", "", ""]
    assert [c.language for c in drafts] == ["triton", "triton", "cuda"]

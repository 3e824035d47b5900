"""Renderers and schedule spaces of this backend: Triton's, which every target that speaks it shares, and its
own of CUDA C++ (rows in registers) and CuTe DSL (matrix products for Hopper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kevolve_core.errors import UnsupportedError
from kevolve_core.interfaces import Renderer
from kevolve_core.ir import LibraryCall, Step
from kevolve_core.model import Device
from kevolve_core.space import Space

__all__ = ["renderers", "schedule_space"]


def _product(rows: int, cols: int, depth: int, warps: int, stages: int, **more: Any) -> dict[str, Any]:
    return {
        "implementation": "generated", "tile_rows": rows, "tile_cols": cols, "tile_depth": depth,
        "tile_num_warps": warps, "tile_num_stages": stages, **more,
    }  # fmt: skip


#: Tiles of float32 products. On an H100 (788 x 3072 x 768, benchmarks/results/h100_schedules.json) the small
#: tile was fastest in both schemes: registers hold the split operands, and many small programs hide that.
#: A long depth, or few tiles, needs it divided and partial sums promoted. At 2048^3 (bf16x6) 128 x 128 took
#: 264 us and 64 x 64 286 us, 395 us with promotion; by descriptors 293, 287 and 339 us.
_PRODUCTS = (
    _product(64, 64, 32, 4, 3, tile_precision="tf32x3"),
    _product(64, 64, 32, 4, 3, tile_precision="bf16x6"),
    _product(64, 64, 32, 4, 3, tile_precision="bf16x6", tile_chunk=8, tile_split=16),
    _product(128, 128, 32, 8, 3, tile_precision="bf16x6"),
    _product(64, 64, 32, 4, 3, tile_precision="bf16x6", tile_chunk=8, tile_split=2, tile_loads="descriptors"),
    _product(64, 128, 32, 4, 3, tile_precision="tf32x3"),
    _product(128, 64, 32, 4, 3, tile_precision="tf32x3"),
    _product(64, 128, 32, 4, 3, tile_precision="bf16x6"),
    _product(128, 128, 32, 8, 3, tile_precision="tf32x3"),
)
#: Tiles of half-precision products that fill wgmma's shapes. On an H100 the first took 185 us for 4096^3 in
#: bfloat16 (cuBLAS 179), with the right operand transposed or not; by pointers 216 and 185 us. The third took
#: 213 and 209 us, 248 and 210 by pointers.
_HALF_PRODUCTS = (
    _product(128, 256, 64, 8, 3, tile_loads="descriptors"),
    _product(128, 256, 64, 8, 3),
    _product(128, 128, 64, 8, 4, tile_loads="descriptors"),
    _product(128, 128, 64, 8, 4),
    _product(128, 128, 64, 4, 3),
    _product(64, 128, 64, 4, 4),
    _product(64, 64, 64, 4, 4),
)
#: Nests that combine: fewer warps a row (fastest for rows of 4096 float32 on an H100, same file), rows kept
#: in registers, and plain walks whose second reading comes from the L2 cache; `estimated` where not said.
_NESTS: tuple[dict[str, Any], ...] = (
    {"num_warps": 4},
    {"rows": 512, "cols": 1, "num_warps": 4, "held": True},
    {"rows": 1, "cols": 4096, "num_warps": 16, "held": True, "accumulate": "fp32"},
    {"rows": 1, "cols": 2048, "num_warps": 8, "accumulate": "fp32", "online": False},
    {"rows": 1, "cols": 1024, "num_warps": 8, "held": True, "accumulate": "fp32"},
    {"rows": 1, "cols": 8192, "num_warps": 16, "accumulate": "fp32", "online": False},
    {"num_warps": 2},
    {"rows": 128, "cols": 1, "num_warps": 4, "held": True},
)


#: Blocks of attention; `estimated`.
_ATTENTION: tuple[dict[str, Any], ...] = (
    {"block_m": 64, "block_n": 32, "num_warps": 4, "num_stages": 2, "precision": "bf16x6"},
    {"block_m": 64, "block_n": 32, "num_warps": 4, "num_stages": 2, "precision": "tf32x3"},
    {"block_m": 128, "block_n": 64, "num_warps": 8, "num_stages": 2, "precision": "bf16x6"},
    {"block_m": 128, "block_n": 32, "num_warps": 8, "num_stages": 2, "precision": "tf32x3"},
    {"block_m": 64, "block_n": 64, "num_warps": 4, "num_stages": 2, "precision": "tf32x3"},
)
_HALF_ATTENTION: tuple[dict[str, Any], ...] = (
    {"block_m": 128, "block_n": 64, "num_warps": 8, "num_stages": 3},
    {"block_m": 128, "block_n": 128, "num_warps": 8, "num_stages": 2},
    {"block_m": 64, "block_n": 64, "num_warps": 4, "num_stages": 3},
    {"block_m": 128, "block_n": 64, "num_warps": 4, "num_stages": 3},
)


def renderers() -> Mapping[str, Renderer]:
    """Language -> renderer; CUDA C++ and CuTe DSL are among them where their compilers are installed."""
    from kevolve_core.languages.triton import TritonRenderer
    from kevolve_nvidia.compiler import toolchain
    from kevolve_nvidia.launching import program_space

    found: dict[str, Renderer] = {"triton": TritonRenderer(programs=program_space)}
    if any(name.startswith("nvidia-cuda-nvrtc") for name in toolchain("cuda")):
        from kevolve_nvidia.cudacpp.renderer import CudaRenderer

        found["cuda"] = CudaRenderer()
    if "nvidia-cutlass-dsl" in toolchain("cute"):
        from kevolve_nvidia.cutedsl.renderer import CuteRenderer

        found["cute"] = CuteRenderer()
    return found


#: Compute capability of Hopper, from which on hardware loads tiles through tensor descriptors. Its products
#: run on groups of four warps with 64 rows each. Where two groups shared rows, attention by Triton 3.6 ended
#: in illegal accesses on an H100 (64 rows and 8 or 16 warps, schemes of several products) or was wrong (128
#: and 16). Products of matrices with 8 warps on 64 rows were right in all of 14 schedules: they are left
#: alone.
_HOPPER = 90


def schedule_space(step: Step, device: Device, language: str) -> Space:
    """Tunables of ``step`` in ``language``, within the limits of ``device``. Raises `UnsupportedError` for a
    language without a renderer."""
    if language not in ("triton", "cuda", "cute"):
        raise UnsupportedError(
            "the nvidia backend renders no such language", got=language, mend="languages: triton, cuda, cute"
        )
    if language == "cuda":
        from kevolve_nvidia.cudacpp.renderer import cuda_space

        return cuda_space(step)
    from kevolve_core.languages.triton import TritonFacts
    from kevolve_core.languages.triton import schedule_space as triton_space

    if language == "cute" and isinstance(step, LibraryCall):
        from kevolve_nvidia.cutedsl.convolution_schedule import convolution_space
        from kevolve_nvidia.cutedsl.schedule import is_matrix_product, product_space

        if is_matrix_product(step):
            return product_space(step, device.facts)
        if (space := convolution_space(step, device.facts)) is not None:
            return space
    capability = int(device.facts.get("compute_capability", _HOPPER))
    facts = TritonFacts(
        processors=int(device.facts.get("multiprocessors", 132)),
        warp_size=32,
        max_threads=1024,
        shared_bytes=int(device.facts.get("shared_bytes_per_block", 227 << 10)),
        product_starts=_PRODUCTS,
        half_starts=_HALF_PRODUCTS,
        warps_along_rows=capability == _HOPPER,
        descriptors=capability >= _HOPPER,
        nest_starts=_NESTS,
        attention_starts=_ATTENTION,
        half_attention_starts=_HALF_ATTENTION,
    )
    return triton_space(step, facts)

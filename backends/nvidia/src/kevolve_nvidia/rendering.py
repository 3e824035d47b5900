"""Renderers and schedule spaces of this backend: Triton's, which every target that speaks it shares, and its
own of CUDA C++ (rows in registers) and CuTe DSL (matrix products for Hopper)."""

from __future__ import annotations

from collections.abc import Mapping

from kevolve_core.errors import UnsupportedError
from kevolve_core.interfaces import Renderer
from kevolve_core.ir import LibraryCall, Step
from kevolve_core.model import Device
from kevolve_core.space import Space

__all__ = ["renderers", "schedule_space"]


def renderers() -> Mapping[str, Renderer]:
    """Language -> renderer; CUDA C++ and CuTe DSL are among them where their compilers are installed."""
    from kevolve_core.languages.triton import TritonRenderer
    from kevolve_nvidia.compiler import toolchain

    found: dict[str, Renderer] = {"triton": TritonRenderer()}
    if any(name.startswith("nvidia-cuda-nvrtc") for name in toolchain("cuda")):
        from kevolve_nvidia.cudacpp.renderer import CudaRenderer

        found["cuda"] = CudaRenderer()
    if "nvidia-cutlass-dsl" in toolchain("cute"):
        from kevolve_nvidia.cutedsl.renderer import CuteRenderer

        found["cute"] = CuteRenderer()
    return found


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
        from kevolve_nvidia.cutedsl.schedule import is_matrix_product, product_space

        if is_matrix_product(step):
            return product_space(step, device.facts)
    facts = TritonFacts(
        processors=int(device.facts.get("multiprocessors", 132)),
        warp_size=32,
        max_threads=1024,
        shared_bytes=int(device.facts.get("shared_bytes_per_block", 227 << 10)),
    )
    return triton_space(step, facts)

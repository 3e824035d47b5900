"""Triton's launches through this backend's driver, recorded instead of made: no GPU is needed."""

import ctypes
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kevolve_core.errors import KevolveError
from kevolve_core.isolate.entry import EntryModules
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.languages.triton import TritonRenderer
from kevolve_core.synth import SynthGenerator
from kevolve_nvidia import tensor_maps, triton_run
from kevolve_nvidia.architectures import architecture
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only, target_of
from kevolve_nvidia.rendering import schedule_space
from kevolve_nvidia.triton_properties import triton_properties

from .conftest import SPEC, TRITON, triton_candidate


class RecordingApi:
    """Stands for ``cuda.bindings.driver``: real structures, and functions that only take notes."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self.launches: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def cuModuleLoadData(self, binary: bytes) -> tuple[int, str]:  # noqa: N802
        assert binary.startswith(b"\x7fELF")
        return 0, "module"

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[int, str]:  # noqa: N802, ARG002
        return 0, name.decode()

    def cuFuncGetAttribute(self, attribute: Any, function: str) -> tuple[int, int]:  # noqa: N802, ARG002
        return 0, 1024

    def cuLaunchKernelEx(self, config: Any, function: str, parameters: Any, _: int) -> tuple[int]:  # noqa: N802
        grid = (config.gridDimX, config.gridDimY, config.gridDimZ)
        self.launches.append((function, grid, config.blockDimX, words(parameters)))
        return (0,)


#: cuTensorMapEncodeTiled: map, type, rank, address, dimensions, strides, box, steps, and how.
ENCODE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_uint64), ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(ctypes.c_uint32), ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
)  # fmt: skip


class RecordingMaps(RecordingApi):
    """Makes tensor maps, too: of ones, with notes of what they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[tuple[Any, ...]] = []
        self._encode = ENCODE(self._made)

    def cuGetProcAddress(self, name: bytes, version: int, flags: int) -> tuple[int, int, int]:  # noqa: N802, ARG002
        assert name == b"cuTensorMapEncodeTiled"
        return 0, ctypes.cast(self._encode, ctypes.c_void_p).value or 0, 0

    def _made(
        self, made: Any, kind: int, rank: int, address: int, shape: Any, strides: Any, box: Any, steps: Any,
        interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        assert ctypes.addressof(made.contents) % 64 == 0
        for k in range(16):
            made[k] = address + k
        layout = (tuple(shape[:rank]), tuple(strides[: rank - 1]), tuple(box[:rank]), tuple(steps[:rank]))
        self.maps.append((kind, address, *layout, (interleave, swizzle, promotion, fill)))
        return 0


def words(parameters: Any, count: int = 5) -> Any:
    """The first parameters of a launch, as 8-byte words where they lie in memory."""
    if not isinstance(parameters, int):
        return parameters
    table = (ctypes.c_void_p * count).from_address(parameters)
    return tuple(ctypes.c_uint64.from_address(address).value for address in table)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> RecordingApi:
    made = RecordingApi()
    monkeypatch.setattr(triton_run, "api", lambda: made)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: SimpleNamespace(cuda_stream=7))
    return made


def _program(compiler: NvidiaCompiler, folder: Path, modules: EntryModules) -> Any:
    artifact = compiler.compile(triton_candidate(), SPEC, SPEC.cases[0], target_of("sm_90a"))
    (folder / "kernel.py").write_text(TRITON)
    properties = triton_properties({}, architecture("sm_90a"))
    triton_run.activate(0, 90, properties, Path(artifact.facts["folder"]) / triton_run.TRITON_FOLDER)
    return modules.load(folder, "kernel.py")


def test_what_was_compiled_ahead_is_launched_without_compiling(
    compiler: NvidiaCompiler, api: RecordingApi, tmp_path: Path
) -> None:
    modules = EntryModules()
    try:
        module = _program(compiler, tmp_path, modules)
        x = torch.ones(4096)
        y = module.scale(x)
    finally:
        triton_run.deactivate()
        modules.reset()
    assert api.launches == [("_scale", (4, 1, 1), 128, (x.data_ptr(), y.data_ptr(), 4096, 0, 0))]


@pytest.mark.usefixtures("api")
def test_a_launch_that_was_not_compiled_ahead_is_refused(
    compiler: NvidiaCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_run.os, "access", lambda *_: False)  # as in a confined worker
    modules = EntryModules()
    try:
        module = _program(compiler, tmp_path, modules)
        with pytest.raises(KevolveError, match="was not compiled ahead"):
            module.scale(torch.ones(4096, dtype=torch.float64))
    finally:
        triton_run.deactivate()
        modules.reset()


PRODUCT = """
import torch.nn.functional as F


def f(x, y):
    return F.relu(x @ y.mT)
"""
#: PTX's types of parameters -> bytes.
BYTES = {"u64": 8, "u32": 4, "b8": 128}


def test_a_product_s_descriptors_become_tensor_maps_among_its_parameters(
    compiler: NvidiaCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RecordingMaps()
    monkeypatch.setattr(triton_run, "api", lambda: made)
    monkeypatch.setattr(tensor_maps, "api", lambda: made)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: SimpleNamespace(cuda_stream=7))
    x, y = torch.zeros(3, 200, 64, dtype=torch.bfloat16), torch.zeros(3, 96, 64, dtype=torch.bfloat16)
    inputs = tuple(InputSpec(n, tuple(v.shape), dtype="bfloat16") for n, v in (("x", x), ("y", y)))
    spec = KernelSpec("product", Reference(PRODUCT, "f"), (Case("main", inputs),))
    point = {"implementation": "generated", "tile_depth": 64, "tile_loads": "descriptors"}
    generator = SynthGenerator(spec, {"triton": TritonRenderer()}, schedule_space, compile_only("sm_90a"))
    programs = generator.programs()
    candidate = TritonRenderer().render(spec, programs, {s.name: point for s in programs[0].steps})
    artifact = compiler.compile(candidate, spec, spec.cases[0], target_of("sm_90a"))
    folder = Path(artifact.facts["folder"]) / triton_run.TRITON_FOLDER
    (tmp_path / "kernel.py").write_text(candidate.files["kernel.py"])
    modules = EntryModules()
    try:
        triton_run.activate(0, 90, triton_properties({}, architecture("sm_90a")), folder)
        entry = modules.load(tmp_path, "kernel.py")
        results = [entry.f(x, y) for _ in range(3)]
    finally:
        triton_run.deactivate()
        modules.reset()
    # bfloat16, 128 bytes of swizzle, none of interleaving, promotion to 128 bytes, zeros outside.
    how = (1, 1, 1), (0, 3, 2, 0)
    assert made.maps == [
        (9, x.data_ptr(), (64, 200, 3), (128, 200 * 128), (64, 64, 1), *how),
        (9, y.data_ptr(), (64, 96, 3), (128, 96 * 128), (64, 64, 1), *how),
    ]
    assert [grid for _, grid, _, _ in made.launches] == [(24, 1, 1)] * 3
    for (_, _, _, (values, types)), result in zip(made.launches, results, strict=True):
        assert values[0] == result.data_ptr()
        assert [v.opaque[15] for v in values if isinstance(v, tensor_maps.TensorMap)] == [
            x.data_ptr() + 15, y.data_ptr() + 15
        ]  # fmt: skip
        (ptx,) = folder.glob("*/*.ptx")
        kinds = re.findall(r"\.param .*?\.(u64|u32|b8) ", ptx.read_text().partition(")")[0])
        assert [128 if t is None else ctypes.sizeof(t) for t in types] == [BYTES[k] for k in kinds]


def test_parameters_are_written_anew_at_each_launch() -> None:
    packed = triton_run._Packed.of(["*fp32", "i32", "constexpr", "i64"])
    assert packed is not None
    x = torch.ones(4)
    packed.filled((x, 1, 8, 2))
    assert words(packed.filled((x, -3, 8, 1 << 40))) == (x.data_ptr(), 0xFFFFFFFD, 1 << 40, 0, 0)


@pytest.mark.parametrize("arguments", [(None, 1), (torch.ones(4), 1 << 31), (torch.ones(4),)])
def test_parameters_that_do_not_fit_are_left_to_the_general_way(arguments: Any) -> None:
    packed = triton_run._Packed.of(["*fp32", "i32"])
    assert packed is not None
    assert packed.filled(arguments) is None


@pytest.mark.parametrize("signature", [["fp32"], ["tensordesc<fp32[64, 64]>"], [("*fp32", "i32")]])
def test_kernels_that_take_more_than_addresses_and_integers_are_not_packed(signature: list[Any]) -> None:
    assert triton_run._Packed.of(signature) is None


@pytest.mark.parametrize(("value", "kind", "bits"), [(1.0, "fp16", 0x3C00), (-2.0, "bf16", 0xC000)])
def test_half_arguments_travel_as_their_bits(value: float, kind: str, bits: int) -> None:
    values: list[Any] = []
    types: list[Any] = []
    triton_run._flatten(kind, value, values, types, iter(()))
    assert (values, types) == ([bits], [ctypes.c_uint16])

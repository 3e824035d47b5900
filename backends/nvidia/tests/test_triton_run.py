"""Triton's launches through this backend's driver, recorded instead of made: no GPU is needed."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kevolve_core.errors import KevolveError
from kevolve_core.isolate.entry import EntryModules
from kevolve_nvidia import triton_run
from kevolve_nvidia.architectures import architecture
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import target_of
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

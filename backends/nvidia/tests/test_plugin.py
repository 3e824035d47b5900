import os
import subprocess
import sys
from pathlib import Path

import pytest

from kevolve_core.bundle import export
from kevolve_core.errors import ConfigError
from kevolve_core.registry import Registry
from kevolve_nvidia import plugin
from kevolve_nvidia.architectures import architecture, occupancy
from kevolve_nvidia.facts import compile_only
from kevolve_nvidia.plugin import MANIFEST, NvidiaBackend
from kevolve_nvidia.settings import Settings

from .conftest import cuda_candidate


def test_the_plugin_imports_without_torch_triton_and_cuda() -> None:
    code = (
        "import sys, kevolve_nvidia.plugin;"
        "print([m for m in ('torch', 'triton', 'cuda.bindings') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_without_a_driver_the_probe_finds_nothing_and_does_not_raise() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CUDA_VISIBLE_DEVICES": "",
        "XDG_CACHE_HOME": "/nonexistent",
    }
    code = "from kevolve_nvidia.plugin import NvidiaBackend; print(len(NvidiaBackend({}).probe()))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_architectures_to_compile_for_are_devices_that_cannot_run() -> None:
    found = [d for d in NvidiaBackend({"compile_for": ["sm_80", "sm_100a"]}).probe() if "sm_" in d.id]
    assert [(d.id, d.target.arch, sorted(d.capabilities)) for d in found] == [
        ("nvidia:sm_80", "sm_80", ["compile"]),
        ("nvidia:sm_100a", "sm_100a", ["compile"]),
    ]


def test_a_device_to_compile_for_has_no_runner() -> None:
    from kevolve_core.errors import UnsupportedError
    from kevolve_nvidia.runner import NvidiaRunner

    with pytest.raises(UnsupportedError, match="only there to be compiled for"):
        NvidiaRunner(compile_only("sm_90a"), Settings())


def test_it_registers_as_any_plugin() -> None:
    registry = Registry()
    registry.register(plugin, name="nvidia")
    assert registry.backend("nvidia").manifest.languages == MANIFEST.languages


@pytest.mark.parametrize("options", [{"cach_dir": "x"}, {"compile_for": ["sm_12"]}])
def test_a_wrong_option_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        NvidiaBackend(options)


def test_workers_see_the_gpus_that_the_user_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert NvidiaBackend({}).manifest.worker_environment["CUDA_VISIBLE_DEVICES"] == "3"


# Values of the CUDA Occupancy Calculator.
@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "expected"),
    [
        ("sm_80", 256, 32, 0, (1.0, 8, "warps")),
        ("sm_90a", 256, 64, 0, (0.5, 4, "registers")),
        ("sm_90a", 128, 168, 0, (0.1875, 3, "registers")),
        ("sm_90a", 384, 168, 200 << 10, (0.1875, 1, "registers")),
        ("sm_90a", 128, 32, 100 << 10, (0.125, 2, "shared memory")),
        ("sm_80", 32, 16, 0, (0.5, 32, "blocks")),
    ],
)
def test_theoretical_occupancy(
    arch: str, threads: int, registers: int, shared: int, expected: tuple[float, int, str]
) -> None:
    found = occupancy(architecture(arch), threads, registers, shared)
    assert (found.fraction, found.blocks, found.limit) == expected


def test_an_exported_cuda_kernel_carries_its_loader(tmp_path: Path) -> None:
    text = export(cuda_candidate(), NvidiaBackend({}).standalone_loader("cuda"))
    assert "import kevolve" not in text
    assert "from kevolve" not in text
    assert text.index("class Kernel") < text.index("kernels = load_native(")
    file = tmp_path / "exported.py"
    file.write_text(text)
    code = f"import runpy; print(callable(runpy.run_path({str(file)!r})['scale']))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("True", "")

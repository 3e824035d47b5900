"""What the plugin declares, finds and hands out."""

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from kevolve_core.errors import ConfigError
from kevolve_core.knowledge import KnowledgeBase
from kevolve_core.model import Device
from kevolve_core.registry import Registry
from kevolve_cpu import plugin
from kevolve_cpu.facts import caches
from kevolve_cpu.isa import arch_of, extensions_of
from kevolve_cpu.peaks import cached_peaks, measure_peaks
from kevolve_cpu.plugin import MANIFEST, CpuBackend
from kevolve_cpu.settings import Settings, available_cpus
from kevolve_cpu.standalone import loader_source
from kevolve_cpu.toolchain import BASE_FLAGS

V3 = frozenset(
    {"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"}
    | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
)
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def test_importing_the_plugin_imports_no_torch() -> None:
    program = "import sys, kevolve_cpu.plugin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_probing_imports_no_torch() -> None:
    program = (
        "import sys; from kevolve_cpu.plugin import CpuBackend\n"
        "CpuBackend({}).probe(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_registering_adds_the_backend() -> None:
    registry = Registry()
    registry.register(plugin, name="cpu", options={"threads": 3})
    backend = registry.backend("cpu")
    assert (backend.manifest.name, backend.manifest.worker_environment["OMP_NUM_THREADS"]) == ("cpu", "3")


def test_the_options_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(dict(MANIFEST.options_schema))


def test_an_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'threads'"):
        CpuBackend({"thread": 2})


def test_the_thread_option_reaches_every_worker() -> None:
    assert CpuBackend({"threads": 3}).manifest.worker_environment["OMP_NUM_THREADS"] == "3"


def test_torch_compile_keeps_its_results_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = CpuBackend({}).manifest.worker_environment["TORCHINDUCTOR_CACHE_DIR"]
    assert folder == f"{tmp_path}/kevolve/inductor"


def test_threads_default_to_the_cpus_there_are() -> None:
    assert CpuBackend({}).settings.thread_count == available_cpus()


def test_the_probe_finds_this_host(device: Device) -> None:
    assert (device.id, device.shares_host, device.facts["llc_bytes"] > 0) == ("cpu:0", True, True)


def test_a_host_without_compiler_cannot_compile_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    found = CpuBackend({}).probe()[0]
    assert ({"run", "time", "profile", "counters"}, True) == (
        set(found.capabilities),
        "apt install" in found.facts["compiler_missing"],
    )


def test_baselines_are_eager_and_compiled(device: Device) -> None:
    import importlib

    from kevolve_core.kernelspec import Case, KernelSpec, Reference

    spec = KernelSpec("s", Reference("", ""), (Case("all"),))
    found = CpuBackend({}).baselines(spec, device)
    assert [b.kind for b in found] == ["eager", "compiled"]
    for baseline in found:
        module, _, name = baseline.factory.partition(":")
        assert callable(getattr(importlib.import_module(module), name)(abs))


@pytest.mark.parametrize(
    ("features", "expected"),
    [(frozenset(), "x86-64"), (V3, "x86-64-v3"), (V4, "x86-64-v4"), (V4 - {"fma"}, "x86-64-v2")],
)
def test_the_architecture_is_the_highest_complete_level(features: frozenset[str], expected: str) -> None:
    assert expected == arch_of("x86_64", features)


def test_another_machine_keeps_its_name() -> None:
    assert arch_of("aarch64", frozenset({"asimd"})) == "aarch64"


def test_extensions_are_compiler_options() -> None:
    assert extensions_of(frozenset({"amx_tile", "gfni", "ht"})) == ("-mgfni", "-mamx-tile")


def test_caches_shared_by_cpus_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    for cpu in (0, 1):
        for index, (level, kind, size, shared) in enumerate(
            [
                ("1", "Data", "32K", str(cpu)),
                ("1", "Instruction", "32K", str(cpu)),
                ("3", "Unified", "8M", "0-1"),
            ]
        ):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in zip(
                ("level", "type", "size", "shared_cpu_list"), (level, kind, size, shared), strict=True
            ):
                (folder / name).write_text(text + "\n")
    assert caches(tmp_path) == {"l1d": 64 << 10, "l3": 8 << 20}


@pytest.mark.slow
def test_measured_ceilings_are_positive_and_kept(tmp_path: Path, device: Device) -> None:
    settings = Settings(cache_dir=str(tmp_path))
    measured = measure_peaks(device, settings)
    assert measured == cached_peaks(device, settings)
    assert measured.on(device).facts["peak_bytes_per_s"] == measured.peak_bytes_per_s > 1e8


def test_an_exported_kernel_runs_without_kevolve(tmp_path: Path, candidate: object) -> None:
    sources = {"kernel.cpp": candidate().files["kernel.cpp"]}  # type: ignore[operator]
    exported = tmp_path / "exported.py"
    exported.write_text(
        f"import sys, torch\n_SOURCES = {sources!r}\n{loader_source()}\n"
        "library = load_native('kernel.cpp', {'scale': 'pplf'})\n"
        "x = torch.arange(5.0); y = torch.empty_like(x)\n"
        "library.scale(x.data_ptr(), y.data_ptr(), 5, 2.0)\n"
        "print(y.tolist(), [m for m in sys.modules if m.startswith('kevolve')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", str(exported)],
        env={"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[0.0, 2.0, 4.0, 6.0, 8.0] []\n", "")


def test_exported_kernels_use_the_backends_flags() -> None:
    from kevolve_cpu.carried import _FLAGS

    assert [f for f in BASE_FLAGS if not f.startswith("-W")] == _FLAGS


def test_knowledge_pages_say_what_they_are_about_and_where_from() -> None:
    base = KnowledgeBase.open(CpuBackend({}).knowledge(), shipped=False, strict=True)
    assert len(base) >= 7
    assert {page.targets for page in base.pages} == {("cpu",)}
    assert [page.id for page in base.pages if not page.sources] == []

"""Candidates' C++ to a library: results, errors, cache."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from kevolve_core.builds import BuildCache
from kevolve_core.errors import CompileError, StoreError, ToolchainMissingError, UnsupportedError
from kevolve_core.model import Artifact, Candidate, Device, Target
from kevolve_cpu.compiler import CppCompiler, trimmed
from kevolve_cpu.settings import Settings
from kevolve_cpu.toolchain import find_toolchain

Make = Callable[..., Candidate]
Build = Callable[[Candidate], Artifact]


def test_a_compiled_kernel_computes(candidate: Make, load: Callable[[Candidate], Any]) -> None:
    import torch

    x = torch.randn(1001)
    assert torch.equal(2 * x, load(candidate()).scale(x))


def test_a_second_compile_comes_from_the_cache(candidate: Make, build: Build) -> None:
    first, second = build(candidate()), build(candidate())
    assert (False, True, first.binaries) == (first.cached, second.cached, second.binaries)


def test_another_entry_with_the_same_source_shares_the_build(candidate: Make, build: Build) -> None:
    build(candidate())
    assert build(candidate(py="x = 1")).cached


def test_other_source_or_flags_get_another_key(
    candidate: Make, build: Build, settings: Settings, device: Device
) -> None:
    other = CppCompiler(attrs.evolve(settings, flags=("-O1",)))
    spec: Any = None
    keys = {
        build(candidate()).key,
        build(candidate(cpp='extern "C" void scale() {}')).key,
        other.compile(candidate(), spec, spec, device.target).key,
    }
    assert len(keys) == 3


def test_a_damaged_cache_entry_is_built_again(candidate: Make, build: Build) -> None:
    library = Path(build(candidate()).binaries["kernel.cpp"])
    library.write_bytes(b"")
    again = build(candidate())
    assert (again.cached, library.stat().st_size > 0) == (False, True)


def test_concurrent_compiles_of_one_key_build_once(candidate: Make, build: Build) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: build(candidate()), range(4)))
    assert sorted(a.cached for a in made) == [False, True, True, True]


def test_two_processes_compile_one_key_without_harm(
    candidate: Make, build: Build, settings: Settings, tmp_path: Path
) -> None:
    import json
    import subprocess
    import sys

    (tmp_path / "c.json").write_text(json.dumps(dict(candidate().files)))
    program = (
        "import json, sys; from kevolve_cpu.compiler import CppCompiler\n"
        "from kevolve_cpu.settings import Settings\n"
        "from kevolve_core.model import Candidate; from kevolve_cpu.plugin import CpuBackend\n"
        "c = Candidate(json.load(open(sys.argv[1])), 'kernel.py', 'cpp'); d = CpuBackend({}).probe()[0]\n"
        "a = CppCompiler(Settings(cache_dir=sys.argv[2])).compile(c, None, None, d.target)\n"
        "print(a.key, a.cached)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "c.json"), settings.cache_dir]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = sorted(p.communicate()[0].strip() for p in running)
    key = build(candidate()).key
    assert [f"{key} False", f"{key} True"] == lines


def test_a_compile_error_has_the_log(candidate: Make, build: Build) -> None:
    with pytest.raises(CompileError, match="nonsense") as caught:
        build(candidate(cpp='extern "C" void scale() {\n  nonsense;\n}\n'))
    assert "kernel.cpp:2:3: error:" in caught.value.log


def test_an_undefined_function_is_a_compile_error(candidate: Make, build: Build) -> None:
    with pytest.raises(CompileError, match="missing_function"):
        build(candidate(cpp='void missing_function(); extern "C" void scale() { missing_function(); }'))


def test_warnings_are_diagnostics(candidate: Make, build: Build) -> None:
    made = build(candidate(cpp='extern "C" void scale() { int unused; }'))
    assert "unused variable" in made.diagnostics


def test_several_files_and_a_header_become_one_library(candidate: Make, build: Build) -> None:
    files = {"util/two.h": "int two();", "two.cpp": '#include "util/two.h"\nint two() { return 2; }'}
    made = build(candidate(cpp='#include "util/two.h"\nextern "C" void scale() { two(); }', more=files))
    assert ({"kernel.cpp", "two.cpp"}, 1) == (set(made.binaries), len(set(made.binaries.values())))


def test_a_candidate_without_cpp_needs_no_compiler(
    candidate: Make, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    made = build(candidate(cpp="", py="def f(x): return x"))
    assert (dict(made.binaries), made.facts["entry"]) == ({}, "kernel.py")


def test_a_missing_compiler_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolchainMissingError, match=r"apt install g\+\+.*dnf install gcc-c\+\+"):
        find_toolchain(Settings())


def test_a_wrong_cxx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolchainMissingError, match=r"(?s)no-such-compiler.*\$CXX"):
        find_toolchain(Settings())


def test_a_program_that_is_no_compiler_is_refused() -> None:
    with pytest.raises(ToolchainMissingError, match="does not behave"):
        find_toolchain(Settings(compiler="true"))


def test_a_foreign_architecture_is_unsupported(compiler: CppCompiler, candidate: Make) -> None:
    spec: Any = None
    with pytest.raises(UnsupportedError, match="riscv64"):
        compiler.compile(candidate(), spec, spec, Target("cpu", "riscv64"))


def test_a_compile_past_its_limit_is_killed_with_its_children(
    tmp_path: Path, settings: Settings, candidate: Make, device: Device
) -> None:
    # `#include` of a pipe that nobody writes to stops the compiler proper, a child of the driver.
    pipe = tmp_path / "never.h"
    os.mkfifo(pipe)
    spec: Any = None
    limited = CppCompiler(attrs.evolve(settings, compile_timeout_s=0.6))
    start = time.monotonic()
    with pytest.raises(CompileError, match=r"did not end within 0\.6 s"):
        limited.compile(candidate(cpp=f'#include "{pipe}"'), spec, spec, device.target)
    assert time.monotonic() - start < 5
    assert _commands_with(str(tmp_path / "cache")) == []


def _commands_with(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            cwd = os.readlink(folder / "cwd")
        except OSError:
            continue  # another user's, or gone
        if cwd.startswith(text):
            found.append(cwd)
    return found


def test_an_unwritable_cache_is_a_store_error(tmp_path: Path, candidate: Make, device: Device) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    spec: Any = None
    with pytest.raises(StoreError, match="compile cache cannot be written"):
        CppCompiler(Settings(cache_dir=str(blocked))).compile(candidate(), spec, spec, device.target)


def _entry(cache: BuildCache, key: str, age: float) -> Path:
    with cache.building(key) as work:
        assert work is not None
        (work / "kernel.so").write_bytes(b"x" * 1000)
        entry = cache.publish(key, work, {})
    os.utime(entry, (time.time() - age, time.time() - age))
    return entry


def test_a_full_cache_drops_what_was_not_used_lately(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path, max_bytes=2500)
    entries = [_entry(cache, f"{n}a", age=7200.0 + n) for n in range(4)]
    cache.sweep()
    assert [e.exists() for e in entries] == [True, True, False, False]


def test_a_full_cache_keeps_what_a_worker_may_be_loading(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path, max_bytes=0)
    entry = _entry(cache, "aa", age=60.0)
    assert (cache.sweep(), entry.exists()) == (0, True)


def test_builders_of_one_key_wait_for_each_other(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path, max_bytes=1 << 20)
    order = []

    def second() -> None:
        with cache.building("aa") as work:
            order.append(("second", work))

    with cache.building("aa") as work:
        assert work is not None
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        order.append(("first", None))
        (work / "kernel.so").write_bytes(b"x")
        cache.publish("aa", work, {})
    thread.join()
    assert order == [("first", None), ("second", None)]


def test_a_long_log_keeps_its_beginning_and_end() -> None:
    short = trimmed("\n".join(f"line {n}" for n in range(1000)), lines=8).splitlines()
    assert (short[0], short[6], short[-1]) == ("line 0", "… 992 lines left out …", "line 999")

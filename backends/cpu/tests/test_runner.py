"""Device primitives."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kevolve_core.errors import KevolveError
from kevolve_core.model import Artifact, Candidate
from kevolve_cpu.plugin import CpuBackend
from kevolve_cpu.runner import CpuRunner

Make = Callable[..., Candidate]
Load = Callable[[Candidate], Any]


def test_time_does_not_go_back(runner: CpuRunner) -> None:
    marks = [runner.timestamp() for _ in range(1000)]
    assert sorted(marks) == marks


def test_elapsed_is_in_seconds(runner: CpuRunner) -> None:
    assert runner.elapsed(1_000_000, 3_500_000) == pytest.approx(0.0025)


def test_the_clock_is_the_one_from_before_the_candidate(
    candidate: Make, load: Load, runner: CpuRunner
) -> None:
    import time

    original = time.perf_counter_ns
    try:
        load(candidate(py="import time\ntime.perf_counter_ns = lambda: 0"))
        assert runner.timestamp() > 0
    finally:
        time.perf_counter_ns = original


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[3:, 5:],
        lambda x: x[0, 0],
        lambda x: x[:0],
        lambda x: x[:1].expand(7, -1),
        lambda x: x.to(torch.bfloat16)[1:],
        lambda x: x > 0,
    ],
    ids=["plain", "transposed", "strided", "offset", "scalar", "empty", "expanded", "bfloat16", "bool"],
)
def test_an_upload_has_the_values_and_the_layout(
    runner: CpuRunner, view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    source = view(torch.randn(40, 33))
    copy = runner.upload(source)
    assert (True, source.stride(), source.dtype) == (torch.equal(source, copy), copy.stride(), copy.dtype)


def test_an_upload_is_independent_of_its_source(runner: CpuRunner) -> None:
    source = torch.zeros(4)
    copy = runner.upload(source)
    copy.fill_(1)
    assert source.tolist() == [0, 0, 0, 0]


def test_an_upload_outlives_everything_else(runner: CpuRunner) -> None:
    copy = runner.upload(torch.arange(1 << 16))
    for _ in range(8):
        runner.poison(1 << 19)
    assert torch.equal(torch.arange(1 << 16), copy)


def test_uploads_are_aligned_and_begin_at_new_addresses(runner: CpuRunner) -> None:
    addresses = []
    for _ in range(300):
        addresses.append(runner.upload(torch.zeros(1000)).data_ptr())  # freed at once: malloc would repeat
    assert ({0}, 300) == ({a % 64 for a in addresses}, len(set(addresses)))


def test_uploads_vary_their_place_in_a_page(runner: CpuRunner) -> None:
    places = {runner.upload(torch.zeros(1000)).data_ptr() % 4096 for _ in range(300)}
    assert len(places) > 32


def test_an_upload_begins_its_storage(runner: CpuRunner) -> None:
    copy = runner.upload(torch.zeros(10))
    assert (copy.storage_offset(), copy.untyped_storage().nbytes()) == (0, 40)


def test_an_offset_view_keeps_its_alignment(runner: CpuRunner) -> None:
    source = torch.zeros(10_000_000)[5_000_001:5_000_011]
    copy = runner.upload(source)
    assert (copy.data_ptr() % 64, copy.untyped_storage().nbytes() < 8192) == (4, True)


def test_poison_is_found_by_the_next_result_of_that_size(runner: CpuRunner) -> None:
    found = []
    for _ in range(5):
        runner.poison(1 << 16)
        found.append(bool(torch.empty(1 << 14).isnan().any()))
    assert True in found


def test_in_a_workers_environment_poison_covers_the_result_and_maps_its_pages(tmp_path: Path) -> None:
    # All but eight words: malloc's links stand at the beginning of a free block.
    program = (
        "import resource, sys, torch; from pathlib import Path; from kevolve_cpu.runner import CpuRunner\n"
        "runner = CpuRunner(2, 1 << 20); runner.open(Path(sys.argv[1])); size = 48 << 20\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "covered, paged = [], []\n"
        "for _ in range(4):\n"
        "    runner.poison(size); before = faults(); y = torch.empty(size // 4)\n"
        "    covered.append(int((~y.isnan()).sum()) <= 8)\n"
        "    y.fill_(1); paged.append(faults() - before); del y\n"
        "print(all(covered), max(paged) < size // 4096 // 100)"
    )
    environment = {**os.environ, **CpuBackend({}).manifest.worker_environment}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True"


def test_a_candidates_openmp_threads_are_not_foreign(candidate: Make, load: Load, runner: CpuRunner) -> None:
    many = candidate(
        cpp="""#include <cstdint>
        extern "C" void scale(const float* x, float* y, int64_t n, float a) {
        #pragma omp parallel for num_threads(5)
          for (int64_t i = 0; i < n; i++) y[i] = a * x[i];
        }"""
    )
    load(many).scale(torch.ones(1000))
    assert runner.foreign_activity() == ""


def test_a_python_thread_is_foreign(runner: CpuRunner) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert "did not make" in runner.foreign_activity()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("work", ["usleep(300000)", "for (volatile long i = 0; i < 40000000; i++) {}"])
def test_a_detached_native_thread_is_foreign(
    candidate: Make, load: Load, runner: CpuRunner, work: str
) -> None:
    module = load(
        candidate(
            cpp=f"""#include <thread>
            #include <cstdint>
            #include <unistd.h>
            extern "C" void scale(const float*, float*, int64_t, float) {{
              std::thread([] {{ {work}; }}).detach();
            }}"""
        )
    )
    module.scale(torch.ones(10))
    found = runner.foreign_activity()
    assert "did not make" in found or "still running" in found


def test_torch_work_is_not_foreign(runner: CpuRunner) -> None:
    torch.randn(512, 512) @ torch.randn(512, 512)
    assert runner.foreign_activity() == ""


def test_static_variables_do_not_reach_the_next_load(candidate: Make, load: Load) -> None:
    counting = candidate(
        cpp="""#include <cstdint>
        static float calls = 0;
        extern "C" void scale(const float*, float* y, int64_t, float) { y[0] = ++calls; }"""
    )
    seen = []
    for _ in range(2):
        module = load(counting)
        module.scale(torch.zeros(1))
        seen.append(module.scale(torch.zeros(1)).item())
    assert seen == [2, 2]


def test_a_library_that_stays_mapped_is_not_taken_for_the_next_one(
    candidate: Make, load: Load, runner: CpuRunner
) -> None:
    pinned = """#include <cstdint>
        struct Pin {{ ~Pin() {{}} int x; }};
        thread_local Pin pin;
        extern "C" void scale(const float*, float* y, int64_t, float) {{ pin.x = 1; y[0] = {value}; }}"""
    seen = []
    for value in (1, 2):
        seen.append(load(candidate(cpp=pinned.format(value=value))).scale(torch.zeros(1)).item())
        runner.reset()
    assert seen == [1, 2]


def test_reset_forgets_the_candidates_modules(candidate: Make, load: Load, runner: CpuRunner) -> None:
    load(candidate(py="import helper_of_candidate", more={"helper_of_candidate.py": "x = 1"}))
    runner.reset()
    assert [
        name for name in sys.modules if "helper_of_candidate" in name or "_kevolve_candidate" in name
    ] == []


def test_an_unknown_native_file_lists_the_built_ones(candidate: Make, load: Load) -> None:
    with pytest.raises(KevolveError, match=r"(?s)other\.cpp.*files built: kernel\.cpp"):
        load(candidate(py='from kevolve_core.native import load_native\nload_native("other.cpp", {})'))


def test_an_unknown_function_says_how_to_export_it(candidate: Make, load: Load) -> None:
    with pytest.raises(KevolveError, match='extern "C" void absent'):
        load(
            candidate(
                py='from kevolve_core.native import load_native\nload_native("kernel.cpp", {"absent": ""})'
            )
        )


def test_a_raising_entry_raises_its_own_error(candidate: Make, load: Load) -> None:
    with pytest.raises(ZeroDivisionError):
        load(candidate(py="1 / 0"))


def test_a_closed_runner_says_so(tmp_path: Path) -> None:
    artifact: Any = Artifact.__new__(Artifact)
    with pytest.raises(KevolveError, match="not open"):
        CpuRunner(1, 1 << 20).load(artifact, tmp_path)


def test_one_openmp_runtime_is_mapped(candidate: Make, build: Callable[[Candidate], Artifact]) -> None:
    library = build(candidate()).binaries["kernel.cpp"]
    program = (
        "import ctypes, sys, torch\n"
        "from kevolve_cpu.native import LibraryLoader\n"
        "scale = LibraryLoader({'k.cpp': sys.argv[1]})('k.cpp', {'scale': 'pplf'}).scale\n"
        "x = torch.ones(1 << 20); y = torch.empty_like(x); scale(x.data_ptr(), y.data_ptr(), 9, 2.0)\n"
        "files = {l.split()[-1] for l in open('/proc/self/maps')}\n"
        "print(*sorted(f for f in files if 'omp' in f.rpartition('/')[2]))"
    )
    done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True)
    runtimes = [Path(p).name for p in done.stdout.split()]
    assert (runtimes, "/torch/lib/" in done.stdout) == (["libgomp.so.1"], True)

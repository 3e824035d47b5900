"""Launches replayed as a CUDA graph, on a recording of CUDA; one test is for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kevolve_core.bundle import export
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.interfaces import PROGRAM, Proposal
from kevolve_core.isolate.entry import EntryModules
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Candidate
from kevolve_core.native import binding
from kevolve_core.synth import SynthGenerator
from kevolve_nvidia import graphs, launching
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only, found_devices
from kevolve_nvidia.graphs import Replayed
from kevolve_nvidia.launching import graph_remarks
from kevolve_nvidia.plugin import NvidiaBackend
from kevolve_nvidia.runner import NvidiaRunner
from kevolve_nvidia.settings import Settings
from kevolve_nvidia.standalone import loader_source

Work = Callable[[], Any]


class Stream:
    """One stream; waiting is noted."""

    def __init__(self, cuda: RecordedCuda, number: int) -> None:
        self._cuda, self.number, self.device = cuda, number, torch.device("cpu")
        self.cuda_stream = number

    def wait_stream(self, other: Stream) -> None:
        self._cuda.log.append(f"{self.number} waits for {other.number}")


class Graph:
    """What was launched while it was captured."""

    def __init__(self, cuda: RecordedCuda) -> None:
        self._cuda, self.work = cuda, list[Work]()

    def replay(self) -> None:
        self._cuda.log.append(f"replay of {len(self.work)}")
        for work in self.work:
            work()


class RecordedCuda:
    """``torch.cuda`` with one device; ``log`` says what was asked of it. A reader that waits for the device
    (`item`) breaks a capture, as CUDA has it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = Stream(self, 0)
        self.capturing: Graph | None = None
        self._streams = 0
        patch.setattr(graphs, "_DEVICE", "cpu")
        patch.setattr(graphs, "_abandoned", lambda device, pool: self.log.append(f"abandoned {pool}"))  # noqa: ARG005
        patch.setattr(torch.cuda, "current_stream", lambda _=None: self.current)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing is not None)
        patch.setattr(torch.cuda, "Stream", self._stream)
        patch.setattr(torch.cuda, "stream", self._on)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        patch.setattr(torch.cuda, "graph", self._capture)

    def launch(self, work: Work) -> None:
        """What a kernel's launch does."""
        if self.capturing is None:
            self.log.append("launch")
            work()
        else:
            self.capturing.work.append(work)

    def item(self, tensor: torch.Tensor) -> float:
        """A value read on the host."""
        if self.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return float(tensor)

    def other_stream(self) -> Stream:
        self._streams += 1
        return Stream(self, self._streams)

    def _stream(self, _: Any = None) -> Stream:
        return self.other_stream()

    @contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _capture(self, graph: Graph, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        before, self.current, self.capturing = self.current, options["stream"], graph
        try:
            yield
        except RuntimeError as error:  # as PyTorch does, which stays on the stream
            raise RuntimeError("operation failed due to a previous error during capture") from error
        finally:
            self.capturing = None
        self.current = before


CHAIN = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.arange(64.0).reshape(8, 8) / 64)
    def forward(self, x):
        for _ in range(STEPS):
            x = torch.softmax(x + self.w, -1).t()
        return x
"""


def chain(steps: int, size: int = 8) -> KernelSpec:
    source = CHAIN.replace("STEPS", str(steps)).replace("64.0", f"{float(size * size)}")
    source = source.replace("(8, 8)", f"({size}, {size})")
    case = Case("default", (InputSpec("x", (size, size)),))
    return KernelSpec("chain", Reference(source, "Model", kind="module"), (case,))


def proposals(spec: KernelSpec, count: int, languages: tuple[str, ...] = ("triton",)) -> list[Candidate]:
    backend, device = NvidiaBackend({}), compile_only("sm_90a")
    renderers = {k: v for k, v in backend.renderers().items() if k in languages}
    make = SynthGenerator(spec, renderers, backend.schedule_space, device)
    contexts = [Proposal(spec, device, sequence, 0, parents=()) for sequence in range(count)]
    return [c for context in contexts for c in make.propose_now(context, 1)]


def replays(candidate: Candidate) -> bool:
    return bool((candidate.genome or {})["steps"].get(PROGRAM, {}).get("replay"))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> RecordedCuda:
    return RecordedCuda(monkeypatch)


def scaled(cuda: RecordedCuda) -> Callable[..., torch.Tensor]:
    """A program of two launches: ``3 * x * w``."""

    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        product, out = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
        cuda.launch(lambda: torch.mul(x, w, out=product))
        cuda.launch(lambda: torch.mul(product, 3.0, out=out))
        return out

    return run


def test_the_first_call_captures_and_later_calls_replay(cuda: RecordedCuda) -> None:
    made = Replayed(scaled(cuda), 1)
    made(torch.ones(4), w := torch.full((4,), 2.0))
    made(torch.ones(4), w)
    aside = ["1 waits for 0", "launch", "launch", "0 waits for 1"]
    assert cuda.log == [*aside, "replay of 2", "replay of 2"]
    assert (made.captures, made.replays) == (1, 2)


def test_every_call_computes_from_what_it_is_given(cuda: RecordedCuda) -> None:
    made, w = Replayed(scaled(cuda), 1), torch.full((4,), 2.0)
    kept = [torch.full((4,), float(n)) for n in range(4)]  # four addresses
    assert [made(x, w).tolist() for x in kept] == [[6.0 * n] * 4 for n in range(4)]


def test_a_result_is_the_callers_own(cuda: RecordedCuda) -> None:
    made, w = Replayed(scaled(cuda), 1), torch.ones(4)
    first = made(torch.ones(4), w)
    second = made(torch.full((4,), 5.0), w)
    assert (first.tolist(), second.tolist()) == ([3.0] * 4, [15.0] * 4)
    first.fill_(torch.nan)
    assert made(torch.ones(4), w).tolist() == [3.0] * 4


def test_inputs_keep_their_values(cuda: RecordedCuda) -> None:
    x, w = torch.ones(4), torch.ones(4)

    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        cuda.launch(lambda: x.add_(w))
        return x

    assert Replayed(run, 1)(x, w).tolist() == [2.0] * 4
    assert x.tolist() == [1.0] * 4


def test_weights_that_change_in_place_are_read_anew(cuda: RecordedCuda) -> None:
    made, w = Replayed(scaled(cuda), 1), torch.ones(4)
    made(torch.ones(4), w)
    w.fill_(7.0)
    assert made(torch.ones(4), w).tolist() == [21.0] * 4
    assert made.captures == 1


@pytest.mark.parametrize("other", [torch.full((2, 2), 7.0), torch.full((2, 2), 7.0).t()])
def test_weights_that_lie_elsewhere_are_captured_anew(cuda: RecordedCuda, other: torch.Tensor) -> None:
    made = Replayed(scaled(cuda), 1)
    w = torch.ones(2, 2)
    made(torch.ones(2, 2), w)
    assert made(torch.ones(2, 2), other).tolist() == [[21.0] * 2] * 2
    assert made.captures == 2


def test_two_models_that_take_turns_keep_their_graphs(cuda: RecordedCuda) -> None:
    made, weights = Replayed(scaled(cuda), 1), [torch.full((4,), float(n)) for n in range(2)]
    found = [made(torch.ones(4), w).tolist() for w in weights * 3]
    assert found == [[0.0] * 4, [3.0] * 4] * 3
    assert made.captures == 2


def test_graphs_of_weights_that_moved_on_are_let_go(cuda: RecordedCuda) -> None:
    made, weights = Replayed(scaled(cuda), 1), [torch.ones(4) for _ in range(9)]
    for w in weights:
        made(torch.ones(4), w)
    assert (made.captures, len(made._graphs)) == (9, 4)


def test_inputs_of_another_layout_are_copied(cuda: RecordedCuda) -> None:
    made, w = Replayed(scaled(cuda), 1), torch.ones(2, 3)
    made(torch.ones(2, 3), w)
    wide = torch.arange(12.0).reshape(3, 4)[:, ::2].t()
    assert made(wide, w).tolist() == (3 * wide).tolist()


def test_another_stream_waits_for_the_one_before(cuda: RecordedCuda) -> None:
    made, w = Replayed(scaled(cuda), 1), torch.ones(4)
    made(torch.ones(4), w)
    cuda.log.clear()
    with torch.cuda.stream(cuda.other_stream()):
        made(torch.ones(4), w)
    assert cuda.log == ["2 waits for 0", "replay of 2"]


def test_a_program_that_cannot_be_captured_runs_as_it_is(cuda: RecordedCuda) -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        cuda.launch(lambda: torch.mul(x, 2.0, out=out))
        return out + cuda.item(x[0])

    made = Replayed(run, 1)
    with pytest.warns(UserWarning, match="without a CUDA graph: RuntimeError: operation not permitted"):
        first = made(torch.ones(4))
    assert (first.tolist(), made(torch.full((4,), 2.0)).tolist()) == ([3.0] * 4, [6.0] * 4)
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert graph_remarks([made]) == {"CUDA graph": f"no: {reason}"}
    assert (made.captures, cuda.current.number) == (0, 0)
    assert cuda.log.count("abandoned pool") == 1


def test_a_profiler_sees_every_launch(cuda: RecordedCuda) -> None:
    made, w = Replayed(scaled(cuda), 1), torch.ones(4)
    made(torch.ones(4), w)
    cuda.log.clear()
    with torch.autograd.profiler.profile():
        made(torch.ones(4), w)
    assert cuda.log == ["launch", "launch"]


def test_within_somebody_elses_capture_launches_are_plain(cuda: RecordedCuda) -> None:
    made, outer = Replayed(scaled(cuda), 1), torch.cuda.CUDAGraph()
    with torch.cuda.graph(outer, stream=cuda.current, capture_error_mode="thread_local"):
        made(torch.ones(4), torch.ones(4))
    assert len(outer.work) == 2  # type: ignore[attr-defined]
    assert made.captures == 0


def test_structures_keep_their_form(cuda: RecordedCuda) -> None:
    def run(x: torch.Tensor) -> Any:
        out = torch.empty_like(x)
        cuda.launch(lambda: out.copy_(x))
        return {"a": (out, None), "b": [out, 3]}

    found = Replayed(run, 1)(torch.ones(2))
    assert found["a"][1] is None
    assert (found["a"][0].tolist(), found["b"][0].tolist(), found["b"][1]) == ([1.0] * 2, [1.0] * 2, 3)


def test_closed_it_keeps_nothing_and_captures_anew(cuda: RecordedCuda) -> None:
    made, w = Replayed(scaled(cuda), 1), torch.ones(4)
    made(torch.ones(4), w)
    made.close()
    assert made._graphs == {}
    assert made(torch.ones(4), w).tolist() == [3.0] * 4


def test_on_a_cpu_it_is_the_program_itself() -> None:
    made = Replayed(lambda x: x + 1, 1)
    assert made(torch.ones(2)).tolist() == [2.0] * 2
    assert graph_remarks([made]) == {"CUDA graph": "not called yet"}


def test_a_candidate_that_asks_for_no_graph_gets_no_remark() -> None:
    assert graph_remarks([]) == {}


def test_a_chain_of_many_launches_is_proposed_in_both_forms() -> None:
    assert [replays(c) for c in proposals(chain(20), 3)][:2] == [False, True]


def test_a_program_of_few_launches_has_no_choice_of_a_graph() -> None:
    assert all(PROGRAM not in (c.genome or {})["steps"] for c in proposals(chain(4), 3))


def test_a_program_that_keeps_the_device_busy_has_no_choice_of_a_graph() -> None:
    assert all(PROGRAM not in (c.genome or {})["steps"] for c in proposals(chain(20, 16384), 2))


def test_every_language_has_both_forms() -> None:
    made = proposals(chain(20), 12, ("triton", "cuda"))
    assert {(c.language, replays(c)) for c in made} == {
        (language, form) for language in ("triton", "cuda") for form in (False, True)
    }


def test_the_form_with_a_graph_keeps_the_rules() -> None:
    found = [check_candidate(c) for c in proposals(chain(20), 12, ("triton", "cuda")) if replays(c)]
    assert found == [()] * len(found)
    assert found


@pytest.mark.usefixtures("cuda")
def test_a_candidate_in_triton_is_replayed(
    compiler: NvidiaCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kevolve_nvidia import triton_run
    from kevolve_nvidia.architectures import architecture
    from kevolve_nvidia.triton_properties import triton_properties

    from .test_triton_run import RecordingApi

    monkeypatch.setattr(launching, "_MANY", 4)
    spec = chain(4)
    candidate = next(c for c in proposals(spec, 3) if replays(c))
    artifact = compiler.compile(candidate, spec, spec.cases[0], compiler.device.target)
    (tmp_path / "kernel.py").write_text(candidate.files["kernel.py"])
    api = RecordingApi()
    monkeypatch.setattr(triton_run, "api", lambda: api)
    folder = Path(artifact.facts["folder"]) / triton_run.TRITON_FOLDER
    triton_run.activate(0, 90, triton_properties({}, architecture("sm_90a")), folder)
    made: list[Replayed] = []

    def replay(run: Any, inputs: int) -> Replayed:
        made.append(Replayed(run, inputs))
        return made[-1]

    modules = EntryModules()
    try:
        with binding(lambda *_: SimpleNamespace(), replay):
            program = modules.load(tmp_path, "kernel.py").ModelNew()
        program(torch.ones(8, 8))
        once = len(api.launches)
        results = [program(torch.ones(8, 8)) for _ in range(3)]
    finally:
        triton_run.deactivate()
        modules.reset()
    assert len(api.launches) == once == 2 * 4  # the warm-up's and the capture's: replays launch nothing
    assert (made[0].captures, made[0].replays) == (1, 4)
    assert len({r.data_ptr() for r in results}) == 3


def test_an_export_carries_graphs_and_no_compiler() -> None:
    candidate = next(c for c in proposals(chain(20), 3) if replays(c))
    text = export(candidate, loader_source())
    assert "torch.cuda.graph(" in text
    assert "nvrtc" not in text
    assert "kevolve_core" not in text


def test_an_export_in_cuda_carries_both() -> None:
    made = proposals(chain(20), 12, ("cuda", "triton"))
    text = export(next(c for c in made if replays(c) and c.language == "cuda"), loader_source())
    assert "torch.cuda.graph(" in text
    assert "nvrtc" in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")
def test_on_a_gpu_a_graph_gives_what_its_launches_give(tmp_path: Path) -> None:
    device, spec = found_devices(frozenset({"run"}))[0], chain(20)
    compiler = NvidiaCompiler(Settings(cache_dir=str(tmp_path / "cache"), compile_workers=1), device)
    runner = NvidiaRunner(device, Settings())
    runner.open(tmp_path)
    found = {}
    try:
        for candidate in proposals(spec, 3)[:2]:
            folder = tmp_path / candidate.id
            folder.mkdir()
            (folder / "kernel.py").write_text(candidate.files["kernel.py"])
            artifact = compiler.compile(candidate, spec, spec.cases[0], device.target)
            program = runner.to_device(runner.load(artifact, folder).ModelNew())
            program.w.copy_(torch.arange(64.0).reshape(8, 8) / 64)
            given = [torch.full((8, 8), float(n), device="cuda") for n in range(4)]
            with torch.no_grad():
                results = [program(x) for x in given]
            found[replays(candidate)] = [r.cpu().tolist() for r in results]
            assert runner.remarks() == ({"CUDA graph": "yes"} if replays(candidate) else {})
    finally:
        runner.reset()
        compiler.close()
    assert found[True] == found[False]

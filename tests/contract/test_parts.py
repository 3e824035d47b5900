"""What backends share: defaults of the Protocols, the roofline, hosted programs, the build cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from kevolve_core import interfaces as api
from kevolve_core.builds import BuildCache
from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.hosting import DeviceArray, Hosted, HostedRunner, host_plan
from kevolve_core.ir import Buffer, OutputRef, Program
from kevolve_core.kernelspec import Case, KernelSpec, Reference
from kevolve_core.model import Artifact, Device, Evidence, Target
from kevolve_core.roofline import Ceilings, RooflineProfiler, bottleneck

MANIFEST = api.Manifest("acme", (1, 0), ("acme",), frozenset({"compile", "run"}))
DEVICE = Device("acme:0", "acme", "Acme", Target("acme", "v1"), MANIFEST.capabilities)
SPEC = KernelSpec("s", Reference("def f(x):\n    return x\n", "f"), (Case("c"),))


class Smallest(api.Backend):
    manifest = MANIFEST

    def probe(self) -> list[Device]:
        return [DEVICE]

    def compiler(self, device: Device) -> api.Compiler:
        raise NotImplementedError

    def runner(self, device: Device) -> api.Runner:
        raise NotImplementedError


def test_a_backend_inherits_what_is_right_where_there_is_nothing() -> None:
    b = Smallest()
    assert (b.renderers(), b.profiler(DEVICE), b.baselines(SPEC, DEVICE), b.knowledge()) == ({}, None, (), ())
    with pytest.raises(UnsupportedError, match="backend 'acme'"):
        b.standalone_loader("acme")


def test_a_part_that_lacks_what_must_not_be_forgotten_is_refused_by_name() -> None:
    class Forgetful(HostedRunner):
        def timestamp(self) -> float:
            return 0.0

    with pytest.raises(TypeError, match="synchronize"):
        Forgetful()  # type: ignore[abstract]


class HostRunner(HostedRunner):
    """Memory of the host; a kernel ``[a, b]`` adds a to b."""

    dtypes = ("float32",)

    def allocate(self, dtype: str, elements: int) -> Any:
        return torch.zeros(elements, dtype=getattr(torch, dtype))

    def write(self, memory: Any, content: Any) -> None:
        memory.copy_(content)

    def read(self, memory: Any) -> Any:
        return memory.clone()

    def launch(self, kernel: Any, memory: Mapping[str, Any]) -> None:
        memory[kernel[1]] += memory[kernel[0]]

    def synchronize(self) -> None: ...

    def timestamp(self) -> float:
        return 0.0

    def elapsed(self, start: float, end: float) -> float:
        return end - start

    def flush_cache(self) -> None: ...

    def poison(self, nbytes: int) -> None: ...


def test_a_hosted_program_has_arguments_weights_constants_and_a_tree_of_results(tmp_path: Path) -> None:
    buffers = [
        Buffer("x", (2, 3), "float32", "input", (1, 2), source="0"),
        Buffer("w", (6,), "float32", "param", source="weight"),
        Buffer("c", (6,), "float32", "constant", data=(1, 1, 1, 1, 1, float("inf"))),
        Buffer("y", (6,), "float32", "output"),
    ]
    outputs = (OutputRef("y", (2,), (1,)), OutputRef("y", (2,), (1,), 4))
    program = Program("c", {b.name: b for b in buffers}, (), outputs, {"a": (0, [1])})
    hosted = Hosted("f", host_plan(program), [["x", "y"], ["w", "y"], ["c", "y"]])
    (tmp_path / "program").write_text(hosted.text())
    runner = HostRunner()
    artifact = Artifact("k", "c", DEVICE.target, {"kernel": str(tmp_path / "program")})
    loaded = runner.load(artifact, tmp_path).f
    loaded.load_state_dict({"weight": runner.upload(torch.full((6,), 10.0))})
    x = torch.arange(6.0).reshape(3, 2).t()
    result = loaded(runner.upload(x))
    (first, [last]) = result["a"]
    assert runner.download(first).tolist() == [11.0, 12.0]
    assert runner.download(last).tolist() == [15.0, float("inf")]
    elsewhere = loaded(runner.upload(x.contiguous()))["a"][0]  # the plan has other strides
    assert runner.download(elsewhere).tolist() == [11.0, 12.0]


def test_strides_hold_on_the_device_and_an_unknown_element_type_is_unsupported() -> None:
    runner = HostRunner()
    x = torch.arange(24.0).reshape(4, 6)[1:, ::2]
    buffer = runner.upload(x)
    assert isinstance(buffer, DeviceArray)
    assert (buffer.strides, torch.equal(runner.download(buffer), x)) == ((6, 2), True)
    with pytest.raises(UnsupportedError, match="float32"):
        runner.upload(x.double())
    with pytest.raises(KevolveError, match="one file"):
        runner.load(Artifact("k", "c", DEVICE.target), Path())


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ((0.9, 0.2, 0.0), "memory"),
        ((0.2, 0.9, 0.0), "compute"),
        ((0.9, 0.8, 0.0), "balanced"),
        ((0.4, 0.4, 0.0), "latency"),
        ((0.9, 0.2, 0.4), "latency"),
    ],
)
def test_the_bottleneck_is_what_is_near_its_ceiling(shares: tuple[float, ...], found: str) -> None:
    assert bottleneck(*shares) == found


def test_a_profile_follows_from_the_ceilings() -> None:
    profiler = RooflineProfiler(Ceilings(1e9, 1e12, 1e-6), Evidence.SIMULATED, {"memory": "read once"})
    work = api.Work(bytes=1e6, flops=1e6)
    made = profiler.explain(work, 2e-3, {"launches": 1.0})
    assert profiler.floor(work) == pytest.approx(1.001e-3)
    assert made.roofline is not None
    assert (made.roofline.bound_seconds, made.roofline.fraction) == (1e-3, 0.5)
    assert (made.bottleneck, made.counters["launches"], made.counters["memory_fraction"]) == (
        "memory",
        1,
        0.5,
    )
    assert made.hints == ("memory_fraction 0.50, compute_fraction 0.00, launch_fraction 0.00: read once",)


def test_a_build_is_kept_once_and_not_at_all_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = BuildCache.of_user("acme")
    assert cache.root == tmp_path / "acme"

    def fails(folder: Path) -> None:
        raise ValueError(folder.name)

    with pytest.raises(ValueError):
        cache.entry("aa", fails)
    entry, cached = cache.keep("aa", {"program": "text"})
    assert ((entry / "program").read_text(), cached) == ("text", False)
    assert cache.keep("aa", {"program": "other"}) == (entry, True)
    assert cache.entry("bb", lambda _: {"seconds": 2})[1:] == ({"seconds": 2}, False)
    assert cache.entry("bb", fails)[1:] == ({"seconds": 2}, True)

"""Schedules of the examples' steps on an NVIDIA GPU: error against float64, and time beside the baselines.

    python benchmarks/h100_schedules.py [--only NAME] [--samples N] [--seed 0] [--json FILE] [--dry N]

Every row is one point of a step's schedule space, compiled ahead in parallel and then run in one process (the
candidates are generated here, so nothing has to be fenced off): the largest error over the parity bound, on
normal and on sparse inputs, and the median of a few calls with the L2 cache flushed and the launch queued
ahead. `--dry N` renders all and compiles N points of each for Hopper, without a GPU, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from attrs import evolve

from kevolve_core.bench.environment import environment
from kevolve_core.errors import KevolveError
from kevolve_core.evaluate.tolerance import baseline_leaf, parity_bound, scale_of
from kevolve_core.interfaces import Proposal
from kevolve_core.ir import LibraryCall
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Artifact, Candidate
from kevolve_core.spec import load_spec
from kevolve_core.spec.runtime import draw_inputs, in_float64, load_reference
from kevolve_core.synth import SynthGenerator
from kevolve_core.synth.genome import Genome
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only, found_devices
from kevolve_nvidia.plugin import NvidiaBackend
from kevolve_nvidia.runner import NvidiaRunner

EXAMPLES = Path(__file__).parent.parent / "examples"
#: Rows, columns, depth, warps and stages of a product's tile.
_TILES = (
    (64, 64, 32, 4, 3), (128, 64, 32, 4, 3), (64, 128, 32, 4, 3), (128, 128, 32, 8, 3),
    (128, 128, 64, 8, 2), (128, 256, 32, 8, 3), (64, 256, 32, 8, 3), (64, 128, 64, 4, 2),
)  # fmt: skip


def product_points(space: Any) -> Iterator[dict[str, Any]]:
    """Tiles times schemes times how long a partial sum runs."""
    default = space.default()
    for precision in ("bf16x6", "tf32x3", "bf16x3", "tf32", "ieee"):
        for rows, cols, depth, warps, stages in _TILES:
            for chunk in (0, 2, 4, 8) if precision in ("bf16x6", "tf32x3") else (0,):
                if (rows, cols) != (128, 128) and chunk in (2, 8):
                    continue
                yield default | {
                    "implementation": "generated", "tile_rows": rows, "tile_cols": cols, "tile_depth": depth,
                    "tile_num_warps": warps, "tile_num_stages": stages, "tile_precision": precision,
                    "tile_chunk": chunk,
                }  # fmt: skip
    for rows, cols, depth, warps, stages in _TILES[:4]:
        for programs, split in ((132, 1), (0, 2)):
            point = default | {
                "implementation": "generated", "tile_rows": rows, "tile_cols": cols, "tile_depth": depth,
                "tile_num_warps": warps, "tile_num_stages": stages, "tile_precision": "bf16x6",
                "tile_chunk": 4, "tile_split": split,
            }  # fmt: skip
            yield point | ({"tile_programs": 132} if programs else {})


def nest_points(space: Any, count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """The default, its neighbours, and draws that keep at most 64 elements a thread."""
    default = space.default()
    yield default
    yield from space.neighbours(default)
    wide = {p.name: p.choices for p in space.parameters}
    for warps in (4, 8, 16, 32):
        for cols in wide["cols"][-1:]:
            for rows in (1, 2, 4):
                yield default | {"rows": rows, "cols": cols, "num_warps": warps}
    for _ in range(count):
        yield space.sample(rng)


def candidates(spec: KernelSpec, backend: Any, device: Any, samples: int, seed: int) -> list[Candidate]:
    """A candidate a point; its genome is what differs from the default."""
    generator = SynthGenerator(spec, backend.renderers(), backend.schedule_space, device)
    base = generator.default()
    genome = Genome.parsed(base.genome)
    assert genome is not None
    rng = random.Random(seed)
    found = {base.id: evolve(base, genome={})}
    context = Proposal(spec, device, 0, 0, parents=())
    for step in generator.programs()[0].steps:
        space = backend.schedule_space(step, device, genome.language)
        default = space.default()
        product = isinstance(step, LibraryCall)
        for point in product_points(space) if product else nest_points(space, samples, rng):
            if space.violated(point) is not None:
                continue
            steps = {**genome.steps, step.name: point}
            made = generator._candidate(evolve(genome, steps=steps), context, "")
            changed = {k: v for k, v in point.items() if v != default[k]}
            found.setdefault(made.id, evolve(made, genome=changed))
    return list(found.values())


def compiled(
    compiler: NvidiaCompiler, made: Sequence[tuple[KernelSpec, Candidate]]
) -> list[Artifact | KevolveError]:
    """An artifact for each candidate of a spec's first case, or why there is none; in parallel."""

    def build(job: tuple[KernelSpec, Candidate]) -> Artifact | KevolveError:
        spec, candidate = job
        try:
            return compiler.compile(candidate, spec, spec.cases[0], compiler.device.target)
        except KevolveError as error:
            return error

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(build, made))


class Bench:
    """One GPU, one process, one spec of one case."""

    def __init__(self, runner: NvidiaRunner, spec: KernelSpec, scratch: Path) -> None:
        self.runner, self.spec, self.scratch = runner, spec, scratch
        runner.open(scratch)
        case = spec.cases[0]
        self.reference = load_reference(spec, case, 0)
        double = in_float64(self.reference)
        for module in (self.reference.module, double.module):
            if module is not None:
                runner.to_device(module)
        self.data = []  # inputs, the float64 answer, the parity bound, and the baseline's error over it
        for variant in ("base", "sparse"):
            drawn = draw_inputs(spec, case, 7, variant)
            inputs = [runner.upload(v) if isinstance(v, torch.Tensor) else v for v in drawn]
            exact, eager = double.call(*inputs), self.reference.call(*inputs)
            leaf = baseline_leaf(eager, exact)
            bound = parity_bound(eager.dtype, scale_of(exact), leaf)
            self.data.append((inputs, exact, bound, leaf.error / bound))

    def baselines(self) -> list[dict[str, Any]]:
        """Rows of eager and torch.compile."""
        ratios = [ratio for *_, ratio in self.data]
        sides = {
            "eager": self.reference.call,
            "torch.compile": torch.compile(self.reference.call, dynamic=False),
        }
        return [{"point": n, "ratios": ratios, "us": self.time(call, 12)} for n, call in sides.items()]

    def row(self, candidate: Candidate, artifact: Artifact | KevolveError, number: int) -> dict[str, Any]:
        """The row of one point."""
        row: dict[str, Any] = {"point": dict(candidate.genome or {})}
        if isinstance(artifact, KevolveError):
            return row | {"failed": str(artifact)[:300]}
        folder = self.scratch / str(number)
        folder.mkdir()
        (folder / "kernel.py").write_text(candidate.files["kernel.py"])
        try:
            program = self.program(artifact, folder, candidate.symbol)
            worst = [
                float((program(*inputs).double() - exact).abs().max()) / bound
                for inputs, exact, bound, _ in self.data
            ]
            facts = {name: artifact.facts.get(name) for name in ("registers", "spill_bytes")}
            return row | facts | {"ratios": worst, "us": self.time(program, 6)}
        except Exception as error:  # a point that fails is a row
            return row | {"failed": f"{type(error).__name__}: {error}"[:300]}

    def program(self, artifact: Artifact, folder: Path, symbol: str) -> Any:
        target: Any = getattr(self.runner.load(artifact, folder), symbol or "ModelNew")
        if self.reference.module is None:
            return target
        made = target(*self.reference.init_args, **self.reference.init_kwargs)
        made.load_state_dict(self.reference.module.state_dict())
        return self.runner.to_device(made.eval())

    def time(self, call: Any, count: int) -> float:
        """Median microseconds of ``count`` calls after two more, caches flushed before each."""
        found = []
        for _ in range(count + 2):
            self.runner.flush_cache()
            start = self.runner.timestamp()
            call(*self.data[0][0])
            end = self.runner.timestamp()
            self.runner.synchronize()
            found.append(1e6 * self.runner.elapsed(start, end))
        return median(found[2:])


def show(rows: list[dict[str, Any]]) -> None:
    good = sorted((r for r in rows if "us" in r), key=lambda r: float(r["us"]))
    for r in good[:12]:
        spilled = f"{r['registers']} registers, {r['spill_bytes']} spilled" if "registers" in r else ""
        print(f"  {r['us']:9.1f} us  error/bound {max(r['ratios']):8.2f}  {r['point']} {spilled}", flush=True)
    print(f"  {sum(max(r['ratios']) <= 1 for r in good)} of {len(rows)} within the bound", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", type=int, default=0, metavar="N")
    options = parser.parse_args()
    backend = NvidiaBackend({})
    devices = [compile_only("sm_90a")] if options.dry else found_devices(frozenset({"run"}))
    if not devices:
        raise SystemExit("h100_schedules: there is no NVIDIA GPU here; --dry N compiles without one")
    rows: list[dict[str, Any]] = []
    summary = {"command": f"python {' '.join(sys.argv)}", "environment": environment(devices[0].name)}
    for name in options.only or ["linear_gelu", "rmsnorm", "softmax", "group_norm_silu"]:
        whole = load_spec(EXAMPLES / f"{name}.yaml")
        spec = evolve(whole, cases=whole.timed_cases[:1])
        made = candidates(spec, backend, devices[0], options.samples, options.seed)
        made = made[:: max(1, len(made) // options.dry)] if options.dry else made
        compiler = NvidiaCompiler(backend.settings, devices[0])
        built = compiled(compiler, [(spec, c) for c in made])
        compiler.close()
        print(
            f"{name}: {sum(isinstance(b, Artifact) for b in built)} of {len(built)} points compiled",
            flush=True,
        )
        if options.dry:
            continue
        runner = NvidiaRunner(devices[0], backend.settings)
        with TemporaryDirectory() as scratch, torch.no_grad():
            bench = Bench(runner, spec, Path(scratch))
            own = bench.baselines()
            own += [bench.row(c, b, n) for n, (c, b) in enumerate(zip(made, built, strict=True))]
            runner.reset()
        show(own)
        rows += [{"step": f"{name}/{spec.cases[0].name}", **r} for r in own]
        if options.json:
            options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()

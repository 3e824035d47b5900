"""Small schedule spaces of the CPU backend, and what was measured of their kernels: shared by the modules of
search_ablation_cpu.py."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field

from kevolve_core.api.parts import Place, place, yardsticks
from kevolve_core.evaluate import SEARCH_STAGES, LocalExecutor, Plan
from kevolve_core.interfaces import EvaluationRequest, Proposal
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.space import Parameter, Point, Space
from kevolve_core.spec import load_spec
from kevolve_core.synth import SynthGenerator

#: Choices of the tunables that are searched; a default comes on top, and other tunables keep theirs. Chosen
#: before anything was measured, so that a space has about a hundred points, which take minutes to measure.
TRIED: Mapping[str, tuple[Any, ...]] = {
    "lanes": (4, 8, 16),
    "unroll": (1, 4),
    "parallel": ("outer", "none"),
    "fuse": (True, False),
    "keep": (False, True),
    "online": (0, 1024),
    "stream": (False, True),
}
_AHEAD = 4  # kernels being built while one is timed
_ROUNDS = 12  # of the timing of each kernel, where a search has 4: all searches draw from it


class TimeUpError(Exception):
    """The time given is over."""


@define
class Kernels:
    """The points of a specification's space, and the kernel of each."""

    spec: KernelSpec
    where: Place
    generator: SynthGenerator
    space: Space
    step: str
    genome: Mapping[str, Any]
    _made: dict[tuple[Any, ...], Candidate] = field(factory=dict)

    @classmethod
    def of(cls, file: Path) -> Kernels:
        spec = load_spec(file)
        where = place(spec, "cpu")
        backend = where.backend
        generator = SynthGenerator(spec, backend.renderers(), backend.schedule_space, where.device)
        genome = generator.default().genome
        assert genome is not None
        ((step, _),) = genome["steps"].items()  # everything is fused to one kernel
        timed = spec.timed_cases[0].name
        program = next(p for p in generator.programs() if p.case == timed)
        whole = backend.schedule_space(program.steps[0], where.device, str(genome["language"]))
        return cls(spec, where, generator, narrowed(whole), step, genome)

    def points(self) -> Iterator[Point]:
        """Every legal point."""
        names = [p.name for p in self.space.parameters]
        for values in itertools.product(*(p.choices for p in self.space.parameters)):
            point = dict(zip(names, values, strict=True))
            if self.space.violated(point) is None:
                yield point

    def render(self, point: Point) -> Candidate:
        key = tuple(point[p.name] for p in self.space.parameters)
        if key not in self._made:
            genome = {**self.genome, "steps": {self.step: dict(point)}}
            context = Proposal(self.spec, self.where.device, 0, 0, experience=(genome,))
            (made,) = self.generator.propose_now(context, 1)
            assert made.genome is not None
            assert dict(made.genome["steps"][self.step]) == dict(point)
            self._made[key] = attrs.evolve(made, genome=dict(point))
        return self._made[key]


def narrowed(space: Space) -> Space:
    """``space`` with the choices of `TRIED`, in its own order."""

    def of(p: Parameter) -> Parameter:
        wanted = (*TRIED.get(p.name, ()), p.default)
        return attrs.evolve(p, choices=tuple(c for c in p.choices if c in wanted))

    return attrs.evolve(space, parameters=tuple(of(p) for p in space.parameters), starts=())


@define
class Book:
    """What was measured so far, a line an evaluation. ``by`` names who had it made: ``space``, or the live
    search."""

    file: Path | None
    end: float
    known: dict[tuple[str, str], dict[str, Evaluation]] = field(factory=dict)
    curves: dict[tuple[Any, ...], list[float]] = field(factory=dict)
    paid: int = 0

    def __attrs_post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            for line in self.file.read_text().splitlines():
                entry = json.loads(line)
                if "search" in entry:
                    self.curves[tuple(entry["search"])] = entry["curve"]
                    continue
                made = from_plain(Evaluation, entry["evaluation"])
                self.of(entry["spec"], entry["by"])[made.candidate_id] = made

    def of(self, spec: str, by: str) -> dict[str, Evaluation]:
        return self.known.setdefault((spec, by), {})

    def add(self, spec: str, by: str, made: Evaluation) -> None:
        self.of(spec, by)[made.candidate_id] = made
        self.paid += 1
        self._write({"spec": spec, "by": by, "evaluation": to_plain(made)})

    def done(self, search: tuple[Any, ...], curve: Sequence[float]) -> None:
        """A search on recorded measurements."""
        self.curves[search] = list(curve)
        self._write({"search": search, "curve": list(curve)})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.file is not None:
            with self.file.open("a") as out:
                out.write(json.dumps(line) + "\n")

    def check_time(self) -> None:
        if time.monotonic() > self.end:
            raise TimeUpError


def measure(kernels: Kernels, book: Book) -> None:
    """Have every distinct kernel of the space evaluated that is not in ``book`` yet."""
    known = book.of(kernels.spec.name, "space")
    made = {c.id: c for c in map(kernels.render, kernels.points())}
    todo = deque(c for key, c in made.items() if key not in known)
    print(f"{kernels.spec.name}: {len(made)} kernels, {len(todo)} to be measured", flush=True)
    if not todo:
        return
    # One sitting's data for all: whether a kernel on the edge of the tolerance passes depends on them.
    secret = next((e.seed for e in known.values()), None)
    where = kernels.where
    executor = LocalExecutor(
        where.registry.ref(where.backend_name),
        where.backend,
        where.device,
        kernels.spec,
        secret=secret,
        plan=Plan(quick_rounds=_ROUNDS, quick_seconds=60.0),
        yardsticks=yardsticks(where, kernels.spec),
    )
    flying: deque[Future[Evaluation]] = deque()
    try:
        while todo or flying:
            while todo and len(flying) < _AHEAD and time.monotonic() < book.end:
                request = EvaluationRequest(kernels.spec, todo.popleft(), SEARCH_STAGES)
                flying.append(executor.submit(request))
            if flying:
                book.add(kernels.spec.name, "space", flying.popleft().result())
            else:
                book.check_time()
    finally:
        executor.close()


def shown(kernels: Kernels, book: Book) -> dict[str, Any]:
    """A space as it was measured: a row a point, its score or why there is none at the end."""
    known = book.of(kernels.spec.name, "space")
    free = [p for p in kernels.space.parameters if len(p.choices) > 1]
    rows = []
    for point in kernels.points():
        made = known[kernels.render(point).id]
        end = round(made.score, 4) if made.score is not None else made.verdict.kind.value
        rows.append([*(point[p.name] for p in free), end])
    scores = sorted(e.score for e in known.values() if e.score is not None)
    return {
        "space": kernels.spec.name,
        "tunables": {p.name: list(p.choices) for p in free},
        "points": len(rows),
        "kernels": len(known),
        "failed": len(known) - len(scores),
        "best": scores[-1],
        "median": statistics.median(scores),
        "default": known[kernels.render(kernels.space.default()).id].score,
        "worst": scores[0],
        "seconds": round(sum(e.seconds for e in known.values()), 1),
        "measured": rows,
    }

"""What each policy and each use of memory is worth on real kernels of a CPU, at small equal budgets.

    python benchmarks/search_ablation_cpu.py [--spec SPEC] [--related SPEC] [--seeds 3] [--evaluations 8]
        [--kept FILE] [--json FILE]

Every policy with memory off, warm and split searches the schedules that `synth` has for SPEC on the CPU
backend. Memory is the best three genomes of a random search on the specification RELATED, of as many
evaluations. Each distinct kernel is built, checked and timed once, by the search that first proposes it, and
all others take that evaluation: they are compared on the same measurements, and differ by what they propose.
The figure is the score in quick timing (speed-up over the best baseline) of the best kernel found: mean over
seeds, with a 95 % bootstrap interval over seeds.

With `--kept FILE`, evaluations are written there and not made again; a sweep may be stopped after `--minutes`
and gone on with by the same command on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from provenance import environment, shown_command
from recorded import interval
from search_ablation import MODES, policy_of, verdict

from kevolve_core.api.parts import Place, generator_of, open_executor, place
from kevolve_core.evaluate import SEARCH_STAGES
from kevolve_core.evolve import POLICIES, Budget, Memory, SearchSettings, run
from kevolve_core.interfaces import EvaluationRequest, Executor
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.experience import Lanes
from kevolve_core.model import Evaluation
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.spec import load_spec
from kevolve_core.store import RunStore

HERE = Path(__file__).parent
_GENOMES = 3


@define
class Bench:
    """One specification on the backend, with every evaluation that was made so far."""

    spec: KernelSpec
    where: Place
    kept: Path | None
    end: float
    known: dict[str, Evaluation] = field(factory=dict)
    paid: int = 0
    _opened: Executor | None = None

    def __attrs_post_init__(self) -> None:
        if self.kept is not None and self.kept.exists():
            for line in self.kept.read_text().splitlines():
                entry = json.loads(line)
                if entry["spec"] == self.spec.name:
                    evaluation = from_plain(Evaluation, entry["evaluation"])
                    self.known[evaluation.candidate_id] = evaluation

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        answer: Future[Evaluation] = Future()
        found = self.known.get(request.candidate.id)
        if found is not None:
            answer.set_result(found)
            return answer
        if time.monotonic() > self.end:
            raise SystemExit("the time is up: run the same command again")
        if self._opened is None:
            self._opened = open_executor("local", self.where, self.spec, seed=0)
        made = self._opened.submit(request).result()
        self.known[made.candidate_id] = made
        self.paid += 1
        if self.kept is not None:
            with self.kept.open("a") as out:
                out.write(json.dumps({"spec": self.spec.name, "evaluation": to_plain(made)}) + "\n")
        answer.set_result(made)
        return answer

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def search(self, policy: str, seed: int, evaluations: int, memory: Memory | None = None) -> Found:
        """A search, and nothing after it."""
        settings = SearchSettings(
            seed=seed,
            budget=Budget(candidates=evaluations, stall=None),
            search_stages=SEARCH_STAGES,
        )
        with (
            tempfile.TemporaryDirectory() as folder,
            RunStore.create(Path(folder, "run"), spec=self.spec, settings={}) as store,
        ):
            work = run(
                store,
                device=self.where.device,
                generator=generator_of("synth", self.where, self.spec),
                policy=policy_of(policy),
                executor=self,
                settings=settings,
                memory=memory,
            )
            asyncio.run(work)
            top = store.top(_GENOMES)
            genomes = [store.candidate(row.candidate_id).genome for row in top]
            return Found(top[0].score or 0.0 if top else 0.0, tuple(g for g in genomes if g is not None))


@frozen
class Found:
    """The best score of a search and the genomes of its best candidates."""

    score: float
    genomes: tuple[Mapping[str, Any], ...]


def rows_of(
    bench: Bench, related: Bench, names: Sequence[str], seeds: int, count: int
) -> list[dict[str, Any]]:
    """A row a policy and mode."""
    practice = [related.search("random", seed, count).genomes for seed in range(seeds)]
    rows = []
    for name in names:
        for mode in MODES:
            scores = []
            for seed in range(seeds):
                known = practice[seed] if mode != "off" else ()
                memory = Memory(mode, Lanes() if mode == "split" else None, known)
                scores.append(bench.search(name, seed, count, memory).score)
            rows.append(
                {
                    "policy": name,
                    "memory": mode,
                    "score": statistics.fmean(scores),
                    "interval": interval(scores),
                    "scores": scores,
                    "evidence": "measured",
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    specs = HERE / "sessions" / "specs"
    parser.add_argument("--spec", type=Path, default=specs / "softmax.yaml")
    parser.add_argument("--related", type=Path, default=specs / "rmsnorm.yaml")
    parser.add_argument("--policies", nargs="+", default=[*sorted(set(POLICIES) - {"independent"}), "bandit"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--kept", type=Path, metavar="FILE", help="evaluations made so far")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; see --kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    end = time.monotonic() + given.minutes * 60
    benches = []
    for file in (given.spec, given.related):
        spec = load_spec(file)
        benches.append(Bench(spec, place(spec, "cpu"), given.kept, end))
    try:
        rows = rows_of(benches[0], benches[1], given.policies, given.seeds, given.evaluations)
    finally:
        for bench in benches:
            bench.close()
    print(f"{benches[0].spec.name}, {given.seeds} seeds of {given.evaluations} evaluations each; ", end="")
    print(f"{len(benches[0].known)} distinct kernels measured")
    for row in rows:
        low, high = row["interval"]
        print(f"{row['policy']:<14}{row['memory']:<8}{row['score']:.3f}× [{low:.3f}, {high:.3f}] (measured)")
    split = {name: verdict(rows, name, "score") for name in given.policies}
    for name, words in split.items():
        print(f"split against the better of cold and warm, {name}: {words}")
    summary = {
        "spec": benches[0].spec.name,
        "related": benches[1].spec.name,
        "seeds": given.seeds,
        "evaluations": given.evaluations,
        "kernels_measured": len(benches[0].known),
        "split_against_the_better": split,
        "command": shown_command("search_ablation_cpu.py", sys.argv[1:]),
        "environment": environment(),
    }
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()

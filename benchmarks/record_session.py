"""Record searches whose model is the mailbox: replies written by hand, judged on a real device.

    python benchmarks/record_session.py --backend cpu --out benchmarks/sessions

For each operator, `benchmarks/sessions/replies/OPERATOR.md` holds replies, good and bad, each headed by
``=== NAME <- AFTER``: it answers a prompt for a draft (AFTER is ``draft``), one about the candidate that the
reply AFTER gave, one about any other candidate (``any``), or the request to mend the malformed reply before
it (``mend``). The search runs as always: prompts appear in a mailbox, this program writes the answers beside
them, candidates are compiled, checked and timed. The recordings replay exactly (`kevolve replay FILE`).

With `--compare` nothing is recorded anew: the winner of each recording is timed against the first proposal of
`synth`, in turns, and the recording keeps that evaluation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
import threading
import time
from pathlib import Path

import attrs
from attrs import define, frozen

from kevolve_core import evolve
from kevolve_core.api.parts import generator_of, place
from kevolve_core.errors import MalformedReplyError
from kevolve_core.evaluate import LocalExecutor, Plan
from kevolve_core.evolve import Budget
from kevolve_core.interfaces import EvaluationRequest, Proposal
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.llm import LlmSettings, Mix, ProviderConfig, Providers
from kevolve_core.llm.parse import Expected, files_of
from kevolve_core.llm.recording import Comparison, of_run, pack, unpack
from kevolve_core.model import Candidate
from kevolve_core.serial import to_plain
from kevolve_core.spec import load_spec

OPERATORS = ("dilate", "hamming", "map_id", "row_top8")
HERE = Path(__file__).parent


@frozen
class Written:
    """One reply by hand."""

    name: str
    after: str
    text: str


def replies(operator: str) -> list[Written]:
    text = (HERE / "sessions" / "replies" / f"{operator}.md").read_text()
    found = re.finditer(r"^=== (\S+) <- (\S+)\n(.*?)(?=^=== |\Z)", text, re.DOTALL | re.MULTILINE)
    return [Written(m[1], m[2], m[3]) for m in found]


@define
class Author:
    """Answers the prompts of one mailbox until it has said everything."""

    folder: Path
    unused: list[Written]
    entry: Expected
    language: str
    said: dict[str, str]  # candidate's id -> name of the reply that gave it
    files: dict[str, dict[str, str]]
    stop: threading.Event

    def run(self) -> None:
        while not self.stop.is_set():
            for prompt in sorted(self.folder.glob("*.prompt.md"), key=lambda p: p.stat().st_mtime):
                answer = prompt.with_name(prompt.name.replace(".prompt.", ".reply."))
                if not answer.exists():
                    self.reply(prompt, answer)
            time.sleep(0.05)

    def reply(self, prompt: Path, answer: Path) -> None:
        text = prompt.read_text()
        parent = re.search(r"^# The candidate to \w+: candidate ([0-9a-f]{16})", text, re.MULTILINE)
        chosen = self.choose(None if parent is None else parent[1], "-mend-" in prompt.name, text)
        if chosen is None:
            return  # everything is said: the search ends by its budget
        self.unused.remove(chosen)
        answer.write_text(chosen.text)
        base = self.files.get(parent[1], {}) if parent else {}
        try:
            files = files_of(
                chosen.text, Expected(self.entry.entry, self.entry.native, self.entry.symbol, base)
            )
        except MalformedReplyError:
            return
        symbol = "" if self.entry.symbol == "ModelNew" else self.entry.symbol
        made = Candidate(files=files, entry=self.entry.entry, language=self.language, symbol=symbol)
        self.said[made.id], self.files[made.id] = chosen.name, files

    def choose(self, parent: str | None, mends: bool, text: str) -> Written | None:
        if mends:
            mended = [w for w in self.unused if w.after == "mend" and self._before(w, text)]
            return mended[0] if mended else None
        wanted = ["draft"] if parent is None else [self.said.get(parent, ""), "any"]
        for after in wanted:
            for each in self.unused:
                if each.after == after:
                    return each
        # Neither: any reply that needs no particular parent, so that the search goes on.
        whole = [w for w in self.unused if w.after in ("draft", "any") or "<<<<<<<" not in w.text]
        return next((w for w in whole if w.after != "mend"), None)

    def _before(self, mended: Written, text: str) -> bool:
        """Whether the malformed reply that ``mended`` follows stands in the prompt."""
        order = self._order
        place = [w.name for w in order].index(mended.name)
        return order[place - 1].text.strip()[:200] in text

    @property
    def _order(self) -> list[Written]:
        return replies(self.folder.name)


def record(operator: str, backend: str, out: Path, seed: int) -> dict[str, object]:
    spec = load_spec(HERE / "sessions" / "specs" / f"{operator}.yaml")
    written = replies(operator)
    reference = spec.reference
    symbol = "ModelNew" if reference.kind == "module" else reference.symbol
    with tempfile.TemporaryDirectory(prefix="kevolve-session-") as folder:
        box = Path(folder, operator)
        box.mkdir()
        author = Author(
            box,
            list(written),
            Expected("kernel.py", "kernel.cpp", symbol, {}),
            "cpp",
            {},
            {},
            threading.Event(),
        )
        thread = threading.Thread(target=author.run, daemon=True)
        thread.start()
        providers = Providers(
            {"hand": ProviderConfig("hand", "mailbox", path=str(box), timeout_s=5.0, attempts=1)}
        )
        settings = LlmSettings(providers=providers, mix=Mix.parse(["hand:author"]), language="cpp")
        candidates = sum(w.after != "mend" for w in written) - _hopeless(written)
        try:
            result = evolve(
                spec,
                backend=backend,
                generator="llm",
                generator_options={"llm": to_plain(settings)},
                policy="greedy",
                budget=Budget(candidates=candidates, stall=None),
                seed=seed,
                out=Path(folder, "run"),
            )
        finally:
            author.stop.set()
            thread.join()
        recording = of_run(Path(folder, "run"))
    file = out / f"{operator}.jsonl.gz"
    pack(recording, file)
    return {
        "operator": operator,
        "calls": len(recording.calls),
        "replies": sum(call.reply is not None for call in recording.calls),
        "unused": [w.name for w in author.unused],
        "counts": dict(result.search.counts),
        "speedup": None if result.speedup is None else attrs.asdict(result.speedup),
        "evidence": None if result.evidence is None else result.evidence.value,
        "winner": None if result.best is None else author.said.get(result.best.id, result.best.id),
        "file": str(file),
    }


def compare(operator: str, backend: str, out: Path, seed: int) -> dict[str, object]:
    """Time a recorded session's winner against the first proposal of ``synth``; the recording keeps it."""
    file = out / f"{operator}.jsonl.gz"
    recording = unpack(file)
    (confirmed,) = recording.evaluations["confirm"].values()
    winner = next(c for c in recording.proposals if c is not None and c.id == confirmed.candidate_id)
    beside = against_synth(recording.spec, winner, backend, seed)
    pack(attrs.evolve(recording, comparisons=(beside,)), file)
    return {
        "operator": operator,
        "winner": winner.id,
        "over_synth_first": [attrs.asdict(ratio) for ratio in beside.ratios],
        "verdict": beside.evaluation.verdict.kind.value,
    }


def against_synth(spec: KernelSpec, winner: Candidate, backend: str, seed: int) -> Comparison:
    """The winner against the first proposal of ``synth``, in one evaluation: rounds enough for an interval of
    a few per cent on a machine with other work."""
    where = place(spec, backend)
    generator = generator_of("synth", where, spec)
    (first,) = asyncio.run(generator.propose(Proposal(spec, where.device, 0, seed), 1))
    both = attrs.evolve(spec, seeds=(first,))
    plan = Plan(confirm_rounds=40, confirm_seconds=40.0)
    ref = where.registry.ref(where.backend_name)
    executor = LocalExecutor(ref, where.backend, where.device, both, plan=plan)
    try:
        executor.check_spec()
        stages = ("rules", "compile", "small", "cases", "confirm")
        evaluation = executor.submit(EvaluationRequest(both, winner, stages)).result()
    finally:
        executor.close()
    return Comparison("the first proposal of synth", first, evaluation)


def _hopeless(written: list[Written]) -> int:
    """Replies whose mended form is as malformed as they are: they give no candidate."""
    return sum(w.after == "mend" and "```" not in w.text for w in written)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operators", nargs="*", default=list(OPERATORS))
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "sessions")
    parser.add_argument("--compare", action="store_true", help="only compare what is recorded with synth")
    given = parser.parse_args()
    for operator in given.operators:
        work = compare if given.compare else record
        print(json.dumps(work(operator, given.backend, given.out, given.seed)), flush=True)


if __name__ == "__main__":
    main()

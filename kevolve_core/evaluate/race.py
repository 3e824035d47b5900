"""Timing: contenders interleaved call by call on fresh data, under the device lock, with outputs of the timed
calls checked and the workers' clocks held against this process's own."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from attrs import define, field, frozen

from kevolve_core.evaluate.lock import timing
from kevolve_core.evaluate.session import Contender, Session, closing
from kevolve_core.evaluate.statistics import paired_ratio
from kevolve_core.kernelspec import Case
from kevolve_core.model import Evidence, Measurement, Ratio

__all__ = [
    "RejectedError",
    "Rounds",
    "Samples",
    "inspect_process",
    "judge_output",
    "measure",
    "measurement",
    "unreported",
]

#: How much of the parent's wall time for a request may go unreported: a share of the time, and an overhead of
#: socket and scheduler. `estimated`, for when there is no trusted side whose overhead can be taken instead.
_CLOCK_SHARE, _CLOCK_SLACK = 0.5, 3e-3
#: The same with a trusted side in the same rounds: its overhead may be doubled, plus this.
#: `estimated`.
_TRUSTED_SHARE, _TRUSTED_SLACK = 0.05, 3e-4
_TRUSTED_ROUNDS = 8  # below, the overhead of either side is still chance
_SECOND_LOOK = 12  # further rounds before a contender's clock is not believed; estimated


@frozen
class RejectedError(Exception):
    """A contender did something that decides its verdict. ``kind`` is a `VerdictKind` value."""

    kind: str
    reason: str
    detail: Mapping[str, Any] = field(factory=dict)


@define
class Samples:
    """Seconds by contender's name; index ``i`` of every list is round ``i``. ``wall`` is what the parent saw
    beyond them."""

    seconds: dict[str, list[float]] = field(factory=dict)
    wall: dict[str, list[float]] = field(factory=dict)
    checked: int = 0


def judge_output(session: Session, contender: Contender, inputs: Any) -> None:
    """Hand the last output of an untrusted contender to the oracle; `RejectedError` when it is wrong."""
    reply, fd = contender.collect()
    try:
        if reply.value["subclasses"]:
            raise RejectedError(
                "rule_violation", f"returns a tensor subclass, {reply.value['subclasses'][0]}", inputs.label
            )
        if reply.value["changed"]:
            raise RejectedError(
                "rule_violation",
                f"modifies input {reply.value['changed'][0]}",
                {**inputs.label, "inputs": reply.value["changed"]},
            )
        arguments = {"handle": inputs.handle, "layout": reply.value["layout"]}
        verdict = session.ask("judge", arguments, (fd,)).value
    finally:
        os.close(fd)
    if not verdict["ok"]:
        kind = "rule_violation" if verdict.get("rule") else "wrong_result"
        raise RejectedError(kind, verdict["reason"], {**inputs.label, **verdict.get("detail", {})})


def _check_timed(
    session: Session, case: Case, contender: Contender, inputs: Any, witness: Contender | None, *, cheap: bool
) -> None:
    """Judge the output of the timed call just made. A ``cheap`` check is content when it agrees with the
    eager baseline's; whatever does not is judged in full."""
    if witness is None:
        judge_output(session, contender, inputs)
        return
    witness.prepare(inputs, flush=False, poison=0)
    witness.run()
    reply, fd = witness.collect()
    try:
        if cheap and _agrees(session, case, contender, reply.value["layout"], fd):
            return
        session.ask("baseline", {"handle": inputs.handle, "layout": reply.value["layout"]}, (fd,))
    finally:
        os.close(fd)
    judge_output(session, contender, inputs)


def _agrees(session: Session, case: Case, contender: Contender, layout: Any, fd: int) -> bool:
    reply, own = contender.collect()
    try:
        if reply.value["subclasses"] or reply.value["changed"]:
            return False
        like = session.kept(case, "base", "contiguous").handle
        arguments = {"like": like, "layout": reply.value["layout"], "baseline_layout": layout}
        return bool(session.ask("agree", arguments, (own, fd)).value["agree"])
    finally:
        os.close(own)


@frozen
class Rounds:
    """How often: ``count`` rounds after one that is not counted. The outputs of ``checks`` rounds at random
    are judged, first by agreement with the eager baseline where ``cheap``. No further round starts after
    ``seconds``; at least three are taken."""

    count: int
    checks: int
    seconds: float
    cheap: bool = False


def measure(
    session: Session,
    case: Case,
    candidates: Sequence[Contender],
    baselines: Sequence[Contender],
    rounds: Rounds,
    *,
    seed: int,
    witness: Contender | None = None,
) -> Samples:
    """Time everyone in rounds. A round draws fresh inputs and calls each contender once on its own copies, in
    random order; in some rounds the candidates' timed outputs are judged.

    Args:
        session: whose workers these are.
        case: on which inputs.
        candidates: untrusted sides.
        baselines: trusted sides.
        rounds: how many.
        seed: of order and choice of rounds.
        witness: the eager baseline, the yardstick in judged rounds; it is timed only if among ``baselines``.

    Raises:
        RejectedError: an output was wrong, an input changed, a clock disagreed, or something ran beside the
            call.
        WorkerError: a worker died.
    """
    rng = random.Random(seed)
    everyone = [c.name for c in (*candidates, *baselines)]
    samples = Samples({n: [] for n in everyone}, {n: [] for n in everyone})
    check_rounds = set(rng.sample(range(1, rounds.count + 1), min(rounds.checks, rounds.count)))
    if not rounds.cheap:
        check_rounds.add(rounds.count)  # a kernel that tires of working has had every chance by then
    poison = session.plan(case).output_bytes
    session.settle()
    deadline = time.monotonic() + rounds.seconds
    # The wall is no witness of a simulated time, and of a launch that waits in a queue it shows the waiting.
    clocked = session.measured and not session.queue_seconds
    held = float(session.device.facts.get("hold_seconds", 0.0))
    trusted = [b.name for b in baselines]

    def one_round(number: int) -> None:
        order = [*candidates, *baselines]
        rng.shuffle(order)
        with closing(session.fresh(case), session) as inputs:
            for contender in order:
                contender.prepare(inputs, flush=True, poison=poison)
                reply = contender.run()
                if contender in candidates:
                    _inspect(contender, reply.value, reply.seconds if session.measured else math.inf)
                if number:
                    seconds = float(reply.value["seconds"])
                    samples.seconds[contender.name].append(seconds)
                    samples.wall[contender.name].append(reply.seconds - seconds)
            if number in check_rounds:
                for contender in candidates:
                    _check_timed(session, case, contender, inputs, witness, cheap=rounds.cheap)
                samples.checked += 1

    with timing(session.device):
        for number in range(rounds.count + 1):
            if number > 3 and time.monotonic() > deadline:
                break
            one_round(number)
        if clocked and any(unreported(samples, c.name, trusted, held) for c in candidates):
            # A busy machine delays an honest request too, but not every time.
            for number in range(rounds.count + 1, rounds.count + 1 + _SECOND_LOOK):
                one_round(number)
    for contender in candidates if clocked else ():
        if detail := unreported(samples, contender.name, trusted, held):
            raise RejectedError("rule_violation", "reports less time than passed", detail)
    return samples


def inspect_process(contender: Contender, label: Mapping[str, Any]) -> None:
    """Raise `RejectedError` for what the last call left in its process: patches, foreign activity."""
    found = contender.inspect()
    if found.get("patched"):
        raise RejectedError("rule_violation", f"patches {found['patched']}", label)
    if found.get("reused"):
        raise RejectedError("rule_violation", "returns the memory of an earlier result", label)
    if found.get("foreign"):
        raise RejectedError("rule_violation", f"works outside the call: {found['foreign']}", label)


def _inspect(contender: Contender, value: Mapping[str, Any], wall: float) -> None:
    seconds = value.get("seconds")
    if not isinstance(seconds, float) or not 0 < seconds <= wall or math.isinf(seconds):
        raise RejectedError(
            "rule_violation", f"reports an impossible time of {seconds!r} s", {"wall_seconds": wall}
        )
    inspect_process(contender, {})


def unreported(
    samples: Samples, name: str, trusted: Sequence[str], held: float = 0.0
) -> Mapping[str, float] | None:
    """What is wrong with the times that ``name`` reports, if anything is.

    The parent saw each request from outside. What it saw beyond the reported time is overhead that has
    nothing to do with the kernel: where it is larger than a trusted worker's in the same rounds, the report
    is not to be believed. Over many rounds medians are compared, so that one honest round excuses nothing;
    over few, where a busy machine may have delayed any of them, the smallest has to fit. ``held`` seconds of
    every request a device waits on purpose, before its start mark."""
    seconds = sorted(samples.seconds[name])
    if not seconds:
        return None
    gap, reported = min(samples.wall[name]) - held, seconds[len(seconds) // 2]
    allowed = _CLOCK_SHARE * reported + _CLOCK_SLACK
    if trusted and len(seconds) >= _TRUSTED_ROUNDS:
        gap = median(samples.wall[name]) - held
        usual = max(median(samples.wall[n]) for n in trusted) - held
        allowed = 2 * usual + _TRUSTED_SHARE * reported + _TRUSTED_SLACK
    if gap <= allowed:
        return None
    return {"reported_seconds": reported, "unexplained_seconds": gap, "allowed_seconds": allowed}


def measurement(
    samples: Samples, name: str, case: str, session: Session, phase: str, floor: float, seed: int
) -> Measurement:
    """The samples of one candidate as a `Measurement` with paired ratios against every baseline."""
    candidate = samples.seconds[name]
    others = {n: s for n, s in samples.seconds.items() if n != name and len(s) == len(candidate)}
    ratios: dict[str, Ratio] = {n: paired_ratio(s, candidate, seed) for n, s in others.items()}
    best = min(others, key=lambda n: sorted(others[n])[len(others[n]) // 2], default="")
    return Measurement(
        case=case,
        device=f"{session.device.id} ({session.device.name})",
        evidence=Evidence(session.backend.manifest.evidence),
        phase=phase,
        candidate=tuple(candidate),
        baselines={n: tuple(s) for n, s in others.items()},
        ratios=ratios,
        best_baseline=best,
        floor_seconds=floor,
    )

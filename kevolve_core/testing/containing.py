"""Crash, hang and memory exhaustion, through the real worker processes: each is a verdict, and the next
kernel is judged as if nothing had been."""

from __future__ import annotations

import time

from kevolve_core.evaluate import LocalExecutor
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.model import Candidate, Evaluation, VerdictKind
from kevolve_core.testing.checks import Check, fail
from kevolve_core.testing.numerics import described
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_STAGES = ("rules", "compile", "small")
#: Resident bytes that a worker may reach here: what a host-side allocation is stopped by.
_MEMORY = 6 << 30
#: Seconds beside the time limit for compiling and starting workers, on a busy machine (estimated).
_RESTART = 300.0
_RUN = frozenset({"compile", "run"})


def _evaluated(subject: Subject, candidate: Candidate) -> Evaluation:
    executor = _executor(subject)
    return executor.submit(EvaluationRequest(executor.spec, candidate, _STAGES)).result()


def _executor(subject: Subject) -> LocalExecutor:
    if subject.containment is None:
        spec = subject.spec(
            subject.probes.elements,
            timeout_s=subject.patience + 2 * subject.queue_seconds,
            memory_bytes=_MEMORY,
        )
        subject.containment = subject.executor(spec)
    return subject.containment


def _contained(
    subject: Subject, name: str, candidate: Candidate, kinds: tuple[VerdictKind, ...], mend: str
) -> None:
    """A bad probe gets one of the verdicts, in time, and a good one after it is accepted."""
    began = time.monotonic()
    evaluation = _evaluated(subject, candidate)
    seconds = time.monotonic() - began
    wanted = " or ".join(kind.value for kind in kinds)
    if evaluation.verdict.kind not in kinds:
        raise fail(f"probe '{name}' to end as {wanted}", got=described(evaluation), mend=mend)
    limit = subject.patience + 8 * subject.queue_seconds + _RESTART
    if seconds > limit:
        raise fail(
            f"probe '{name}' to be over within {limit:.0f} s",
            got=f"{seconds:.0f} s",
            mend="do not block in a call that cannot be killed; SIGKILL ends the worker",
        )
    after = _evaluated(subject, subject.probes.copy)
    if not after.accepted:
        raise fail(
            f"the copy probe to be accepted after '{name}'",
            got=described(after),
            where="a new worker on the same device",
            mend="open() must find a device that works, whatever the process before did to it: reset it "
            "there",
        )


def crash(subject: Subject) -> None:
    """A kernel that leaves its buffers is rejected, and the next one is judged as ever."""
    kinds = (VerdictKind.CRASH, VerdictKind.WRONG_RESULT, VerdictKind.RULE_VIOLATION)
    _contained(
        subject,
        "out_of_range",
        subject.probes.out_of_range,
        kinds,
        "let the fault surface (an exception or the death of the worker); nothing may fall back on another "
        "way "
        "to compute the result",
    )


def hang(subject: Subject) -> None:
    """A kernel that never ends is stopped by the time limit, and the next one is judged as ever."""
    _contained(
        subject,
        "endless",
        subject.probes.endless,
        (VerdictKind.TIMEOUT,),
        "wait for the kernel in synchronize(), or report its time-out as it is: an endless kernel gives no "
        "result",
    )


def memory(subject: Subject) -> None:
    """A kernel that asks for more memory than there is, is told so, and the next one is judged as ever."""
    _contained(
        subject,
        "oversized",
        subject.probes.oversized,
        (VerdictKind.OUT_OF_MEMORY,),
        "raise MemoryError (or an exception class called OutOfMemoryError) where an allocation fails",
    )


CHECKS = (
    Check("contain.crash", crash, (1, 2), _RUN),
    Check("contain.hang", hang, (1, 2), _RUN),
    Check("contain.memory", memory, (1, 2), _RUN),
)

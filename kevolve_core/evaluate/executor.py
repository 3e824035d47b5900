"""`LocalExecutor`: evaluations on this machine. Building runs on a thread a core, the device is one thread's.

A candidate's faults become verdicts; only faults of the installation (no compiler, a reference that fails, a
full disk) make a future raise.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from queue import PriorityQueue
from threading import Event, Thread
from typing import Any

import attrs

from kevolve_core.errors import CompileError, DegenerateSpecError, UnsupportedError, WorkerError
from kevolve_core.evaluate.measured import Measured
from kevolve_core.evaluate.race import RejectedError
from kevolve_core.evaluate.session import Session
from kevolve_core.evaluate.stages import PIPELINE, Stage
from kevolve_core.evaluate.trial import Plan, Trial, score
from kevolve_core.interfaces import Backend, BackendRef, EvaluationRequest
from kevolve_core.isolate.process import RemoteError
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Candidate, Device, Evaluation, Evidence, StageRecord, Verdict, VerdictKind

__all__ = ["LocalExecutor"]

_KINDS: Mapping[str, VerdictKind] = {
    "timeout": VerdictKind.TIMEOUT,
    "crash": VerdictKind.CRASH,
    "exception": VerdictKind.CRASH,
    "out_of_memory": VerdictKind.OUT_OF_MEMORY,
    "protocol": VerdictKind.RULE_VIOLATION,
}


class LocalExecutor:
    """Evaluates candidates of one spec on one device of this machine.

    Args:
        ref: how worker processes find the backend.
        backend: the same backend in this process.
        device: one of its devices.
        spec: what is evaluated; requests must carry the same one.
        seed: of the reference's weights and of what is chosen at random about an evaluation.
        secret: of input data; drawn from the system unless given (a repeat of a stored verdict gives it).
        yardsticks: kernels by name to be timed against where the backend has no baseline.
        plan: how much is measured.
        on_stage: called with (candidate id, stage name) when a stage starts; from an executor thread.
        on_note: called with a few words on what `check_spec` and `warm_up` are doing; from their threads.
    """

    def __init__(
        self,
        ref: BackendRef,
        backend: Backend,
        device: Device,
        spec: KernelSpec,
        *,
        seed: int = 0,
        secret: int | None = None,
        plan: Plan | None = None,
        yardsticks: Mapping[str, Candidate] | None = None,
        on_stage: Callable[[str, str], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.secret = secrets.randbits(48) if secret is None else secret
        self._plan = plan or Plan()
        self._compiler = backend.compiler(device)
        self._memory: dict[str, Any] = {}
        self._on_stage = on_stage or (lambda _candidate, _stage: None)
        self._note = on_note or (lambda _text: None)
        self._closed = Event()
        self._warming: Thread | None = None
        self._outstanding: set[Future[Evaluation]] = set()
        self._submitted = itertools.count()
        self._built: PriorityQueue[tuple[int, Callable[[], None]]] = PriorityQueue()
        self._measured = Measured()
        self._scratch = Path(tempfile.mkdtemp(prefix="kevolve-"))
        self._session = Session(
            ref,
            backend,
            device,
            spec,
            seed=seed,
            secret=self.secret,
            workdir=self._scratch / "session",
            yardsticks=yardsticks,
        )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._builders = ThreadPoolExecutor(cores, thread_name_prefix="kevolve-build")
        self._timer = ThreadPoolExecutor(1, thread_name_prefix="kevolve-device")

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines that run on this spec, and of what stands in for them."""
        return (*(b.name for b in self._session.baselines()), *self._session.yardsticks)

    @property
    def broken_baselines(self) -> Mapping[str, str]:
        """Baselines that could not run, with the reason."""
        return self._session.broken_baselines

    def check_spec(self) -> None:
        """Run the reference on every case and see that the oracle is worth asking.

        Raises:
            SpecError: the reference fails on a case.
            DegenerateSpecError: worthless outputs would pass.
        """
        self._timer.submit(self._check_spec).result()

    def warm_up(self) -> None:
        """Start workers and compile the baselines, which the first evaluations would otherwise wait for.
        Returns when they are ready, or could not be made so. May run beside `check_spec`."""
        warming = Thread(target=self._session.warm, args=[self._note], name="kevolve-warm", daemon=True)
        self._warming = warming
        warming.start()
        warming.join()

    def _warmed(self) -> None:
        """Wait for a warm-up that goes on: workers serve one thread at a time."""
        if (warming := self._warming) is not None:
            warming.join()

    def _check_spec(self) -> None:
        self._note("starting the oracle")
        for case in self.spec.cases:
            self._note(f"running the reference on case '{case.name}'")
            self._session.plan(case)
        for case in self._telling():
            self._note(f"checking that trivial answers to case '{case.name}' are refused")
            accepted = self._session.ask("audit", {"case": case.name}).value["accepted"]
            if accepted:
                raise DegenerateSpecError(
                    f"the oracle would accept {accepted[0]} as the answer",
                    got=", ".join(accepted),
                    where=f"{self.spec.name}, case '{case.name}'",
                    mend="give inputs on which the answer matters, or tighten the precision policy; "
                    "`--allow-degenerate` runs it and lists it apart",
                )

    def _telling(self) -> list[Case]:
        """Timed cases whose inputs say something: of empty tensors every answer is as good as another, which
        is no fault where other cases have elements."""
        timed = list(self.spec.timed_cases)
        return [c for c in timed if not self._session.plan(c).hollow] or timed

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        """Evaluate. Stages run in pipeline order whatever their order in the request; `compile` is
        implied. A future that is cancelled takes no further stage. In a search, a candidate that compiles to
        code which was measured before gets that evaluation; its record of ``compile`` says whose."""
        wanted = {*request.stages, "compile"}
        stages = [s for s in PIPELINE if s.name in wanted]
        trial = Trial(request, self._session, self._compiler, self._plan, self._memory)
        records: list[StageRecord] = []
        started, number = time.perf_counter(), next(self._submitted)
        done: Future[Evaluation] = Future()  # pending until the answer is there, so that it can be cancelled
        self._outstanding.add(done)
        done.add_done_callback(self._outstanding.discard)

        def finish(verdict: Verdict | None, error: BaseException | None = None) -> None:
            if not done.set_running_or_notify_cancel():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(self._evaluation(trial, verdict, records, started))

        def step(on_device: bool) -> bool:
            """Run this side's stages; False when the trial ended."""
            for stage in stages:
                if stage.on_device == on_device:
                    if done.cancelled():
                        return False
                    try:
                        verdict = self._run_stage(stage, trial, records)
                    except BaseException as error:
                        finish(None, CancelledError() if self._closed.is_set() else error)
                        return False
                    if verdict is not None:
                        finish(verdict)
                        return False
            return True

        def on_device() -> None:
            if step(on_device=True):
                finish(None)

        def queue() -> None:
            self._built.put((number, on_device))
            try:
                self._timer.submit(self._next)
            except RuntimeError:  # closed meanwhile
                finish(None, CancelledError())

        def repeat(first: Future[Evaluation]) -> None:
            """Take the answer for the same code, where there is one."""
            if first.cancelled() or first.exception() is not None:
                queue()
            elif done.set_running_or_notify_cancel():
                done.set_result(_repeated(first.result(), trial, records, started))

        def build() -> None:
            if step(on_device=False):
                first = self._measured.first(trial, done)
                if first is None:
                    queue()
                else:
                    first.add_done_callback(repeat)

        self._builders.submit(build)
        return done

    def _next(self) -> None:
        """The device's stages of the candidate that was submitted first among those that are built: what
        compiles fastest is seldom what was wanted first."""
        self._warmed()
        _, on_device = self._built.get_nowait()
        on_device()

    def close(self) -> None:
        """Kill the workers and cancel what is outstanding. Safe to call again."""
        self._closed.set()
        self._builders.shutdown(wait=False, cancel_futures=True)
        self._timer.shutdown(wait=False, cancel_futures=True)
        self._session.close()
        for future in list(self._outstanding):  # those whose turn never came
            future.cancel()
        self._builders.shutdown(wait=True)
        self._timer.shutdown(wait=True)
        self._warmed()
        self._session.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _run_stage(self, stage: Stage, trial: Trial, records: list[StageRecord]) -> Verdict | None:
        """Run one stage and record it; a verdict when it decides against the candidate."""
        if self._closed.is_set():
            raise CancelledError
        self._on_stage(trial.request.candidate.id, stage.name)
        start = time.perf_counter()
        try:
            detail = stage.run(trial)
        except (RejectedError, CompileError, UnsupportedError, WorkerError) as error:
            verdict = _verdict(error, stage.name)
            if stage.on_device and verdict.kind is VerdictKind.RULE_VIOLATION:
                self._session.retire(trial.lane)  # whatever it did to its process ends with it
            seconds = time.perf_counter() - start
            records.append(StageRecord(stage.name, seconds, verdict.kind.value))
            return verdict
        records.append(StageRecord(stage.name, time.perf_counter() - start, "passed", dict(detail)))
        return None

    def _evaluation(
        self, trial: Trial, verdict: Verdict | None, records: list[StageRecord], started: float
    ) -> Evaluation:
        accepted = verdict is None
        final = verdict or Verdict(VerdictKind.ACCEPTED, stage=records[-1].stage if records else "")
        value = score(trial) if accepted else None
        evidence = trial.measurements[-1].evidence if trial.measurements else Evidence.COMPILED
        return Evaluation(
            candidate_id=trial.request.candidate.id,
            verdict=final,
            stages=tuple(records),
            measurements=tuple(trial.measurements),
            score=value,
            evidence=evidence,
            profile=trial.profile,
            library_calls=trial.library_calls,
            seed=self.secret,
            seconds=time.perf_counter() - started,
        )


def _repeated(first: Evaluation, trial: Trial, records: Sequence[StageRecord], started: float) -> Evaluation:
    """The evaluation of ``first``'s code as that of the trial's candidate, which names it."""
    own = [
        attrs.evolve(r, detail={**r.detail, "same_code_as": first.candidate_id})
        if r.stage == "compile"
        else r
        for r in records
    ]
    names = {record.stage for record in own}
    return attrs.evolve(
        first,
        candidate_id=trial.request.candidate.id,
        stages=(*own, *(record for record in first.stages if record.stage not in names)),
        seconds=time.perf_counter() - started,
    )


def _verdict(error: Exception, stage: str) -> Verdict:
    if isinstance(error, RejectedError):
        return Verdict(VerdictKind(error.kind), error.reason, stage, error.detail)
    if isinstance(error, CompileError):
        return Verdict(VerdictKind.COMPILE_ERROR, error.what, stage, {"log": error.log})
    if isinstance(error, UnsupportedError):
        return Verdict(VerdictKind.UNSUPPORTED, str(error), stage)
    assert isinstance(error, WorkerError)
    detail = {"log": error.log} if isinstance(error, RemoteError) else {"got": str(error.got or "")}
    reason = error.what.partition("\n")[0]
    return Verdict(_KINDS.get(error.kind, VerdictKind.CRASH), reason, stage, detail)

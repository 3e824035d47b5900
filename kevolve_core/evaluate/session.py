"""The processes of one evaluation service: an oracle, baselines and candidate workers for a spec on a device.

The session starts them lazily, hands blocks of tensors from one to the other and replaces a worker that died.
It knows no stages and makes no judgement.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import attrs
from attrs import define, frozen

from kevolve_core.errors import KevolveError, SpecError, WorkerError
from kevolve_core.evaluate.lifted import Lifted
from kevolve_core.evaluate.lock import cache_root
from kevolve_core.evaluate.spares import Spares
from kevolve_core.interfaces import Backend, BackendRef, Baseline, Work
from kevolve_core.isolate.process import Limits, RemoteError, Reply, WorkerProcess
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Evidence
from kevolve_core.serial import to_plain

__all__ = ["CasePlan", "Contender", "Inputs", "Session"]

# The oracle's and the baselines': a float64 reference or a first torch.compile may take minutes.
_TRUSTED = Limits(seconds=900.0)
# Not the backend's: an allocator that never gives memory back, which steadies times, grows to many times what
# float64 temporaries need. Huge pages (read by PyTorch's CPU allocator) make the fresh memory cheap.
_ORACLE_ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}
_USER_ERRORS = {"SpecError", "CaptureError"}


@frozen
class CasePlan:
    """What the oracle knows of a case without giving anything away (see `OracleRole.op_plan`)."""

    variants: tuple[str, ...]
    layouts: tuple[str, ...]
    elements: int
    output_bytes: int
    outputs: tuple[str, ...]
    hollow: bool = False  # it has tensors as inputs, none with an element


@define
class Inputs:
    """One drawn input set: the oracle's handle, and the block that contenders copy. Close when done."""

    handle: int
    label: Mapping[str, Any]
    layout: Any
    fd: int

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@define
class Contender:
    """One side of a race: a worker process and the key of a program in it."""

    name: str
    worker: WorkerProcess
    key: str
    limits: Limits
    call_limits: Limits | None = None  # where they are other than those of every request

    def prepare(self, inputs: Inputs, *, flush: bool, poison: int) -> None:
        """Fresh copies of the inputs in the worker."""
        self.worker.call(
            "prepare",
            {"key": self.key, "layout": inputs.layout, "flush": flush, "poison": poison},
            [inputs.fd],
            limits=self.limits,
        )

    def run(self, *, counters: bool = False) -> Reply:
        """One call. The reply's value has ``seconds`` (and ``counters``); its own ``seconds`` are the
        parent's wall time."""
        return self.worker.call("run", {"counters": counters}, limits=self.call_limits or self.limits)

    def inspect(self) -> Mapping[str, Any]:
        """What the last call left behind in the process: ``foreign`` activity and ``patched`` functions."""
        found: Mapping[str, Any] = self.worker.call("inspect", limits=self.limits).value
        return found

    def collect(self) -> tuple[Reply, int]:
        """The last output: the reply (``layout``, ``changed``) and the block's descriptor, the caller's to
        close."""
        reply = self.worker.call("collect", limits=self.limits)
        if len(reply.fds) != 1:
            raise WorkerError("a worker sent no output", kind="protocol", where=self.name)
        return reply, reply.fds[0]


class Session:
    """Workers for one spec on one device.

    Args:
        ref: how workers find the backend.
        backend: the same backend, in this process (for its manifest and baselines).
        device: where.
        spec: what.
        seed: of the reference's weights.
        secret: of the inputs; stays between this process and the oracle.
        yardsticks: kernels by name that stand in for baselines where the backend has none.
        workdir: scratch directory, made and removed by the session.
    """

    def __init__(
        self,
        ref: BackendRef,
        backend: Backend,
        device: Device,
        spec: KernelSpec,
        *,
        seed: int,
        secret: int,
        workdir: Path,
        yardsticks: Mapping[str, Candidate] | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.backend = backend
        self._ref = ref
        self._seed = seed
        self.secret = secret
        self.yardsticks = dict(yardsticks or {})
        self._workdir = workdir
        self._threads = int(device.facts.get("threads", os.cpu_count() or 1))
        self._oracle: WorkerProcess | None = None
        self._baselines: WorkerProcess | None = None
        self._workers: dict[str, WorkerProcess] = {}
        self._loaded: dict[str, set[str]] = {}
        self._plans: dict[str, CasePlan] = {}
        self._states: dict[str, tuple[Any, int]] = {}
        self._broken_baselines: dict[str, str] = {}
        self._kept: dict[tuple[str, str, str], Inputs] = {}
        self._starting = Lock()  # of the oracle, which a warm-up asks beside the others
        self._closed = False
        self._spawned: list[WorkerProcess] = []
        self._spares = Spares(lambda n: self._contender(f"spare-{n}", trusted=False))
        self._lifted = Lifted.of(ref)
        self.limits = Limits(
            float(spec.options.get("timeout_s", 60.0)) + self._lifted.queue_seconds,
            int(spec.options.get("memory_bytes", device.facts.get("host_memory_bytes", 8 << 30))),
        )
        #: Of the calls themselves: a device may say how long none takes that is worth having.
        call_seconds = spec.options.get("timeout_s", device.facts.get("call_timeout_s", 60.0))
        self.call_limits = attrs.evolve(self.limits, seconds=float(call_seconds) + self._lifted.queue_seconds)

    @property
    def measured(self) -> bool:
        """Its times are a device's own, which this process's clock bounds from above."""
        return self.backend.manifest.evidence == Evidence.MEASURED

    @property
    def queue_seconds(self) -> float:
        """What a launch may wait for its turn, by the backend's manifest: nobody's time."""
        return float(self.backend.manifest.needs.get("run", {}).get("queue", 0.0))

    # The oracle
    # ------------------------------------------------------------------------------------------------

    @property
    def oracle(self) -> WorkerProcess:
        with self._starting:
            if self._oracle is None or not self._oracle.alive:
                config = {
                    "spec": to_plain(self.spec),
                    "seed": self._seed,
                    "secret": self.secret,
                    "threads": self._threads,
                }
                self._kept.clear()
                role = "kevolve_core.evaluate.oracle:OracleRole"
                self._oracle = self._spawn("oracle", role, config, environment=_ORACLE_ENVIRONMENT)
            return self._oracle

    def ask(self, op: str, arguments: Mapping[str, Any], fds: tuple[int, ...] = ()) -> Reply:
        """An operation of the oracle. A mistake in the user's reference comes back as SpecError."""
        try:
            return self.oracle.call(op, arguments, fds)
        except RemoteError as error:
            raise _translated(error, self.spec) from error

    def plan(self, case: Case) -> CasePlan:
        """Sizes, variants and layouts of a case."""
        if case.name not in self._plans:
            value = self.ask("plan", {"case": case.name}).value
            self._plans[case.name] = CasePlan(
                tuple(value["variants"]),
                tuple(value["layouts"]),
                value["elements"],
                value["output_bytes"],
                tuple(value["outputs"]),
                value["hollow"],
            )
        return self._plans[case.name]

    def work(self, case: Case) -> Work:
        return Work(**self.ask("work", {"case": case.name}).value)

    def draw(self, case: Case, variant: str, layout: str, salt: int = 0) -> Inputs:
        """Inputs of one variant and layout."""
        arguments = {"case": case.name, "variant": variant, "layout": layout, "salt": salt}
        return _inputs(self.ask("draw", arguments))

    def fresh(self, case: Case) -> Inputs:
        """Inputs that no call has seen before, for timing."""
        return _inputs(self.ask("fresh", {"case": case.name}))

    def kept(self, case: Case, variant: str, layout: str) -> Inputs:
        """Inputs drawn once and kept for every candidate, with the answers on them."""
        key = (case.name, variant, layout)
        if key not in self._kept:
            inputs = self.draw(case, variant, layout)
            self._yardstick(inputs, case)
            self._kept[key] = inputs
        return self._kept[key]

    def drawn(self, case: Case, variant: str, layout: str, salt: int) -> Inputs:
        """New inputs with the baseline's answer, to be dropped after use."""
        inputs = self.draw(case, variant, layout, salt)
        self._yardstick(inputs, case)
        return inputs

    def eager(self, case: Case) -> Contender | None:
        """The eager baseline on ``case``: the yardstick of the parity policy."""
        which = next((b for b in self.baselines() if b.kind == "eager"), None)
        return None if which is None else self.baseline(which, case)

    def _yardstick(self, inputs: Inputs, case: Case) -> None:
        eager = self.eager(case)
        if eager is None:
            return
        eager.prepare(inputs, flush=False, poison=0)
        eager.run()
        reply, fd = eager.collect()
        try:
            self.ask("baseline", {"handle": inputs.handle, "layout": reply.value["layout"]}, (fd,))
        finally:
            os.close(fd)

    def drop(self, inputs: Inputs) -> None:
        """Forget an input set everywhere."""
        inputs.close()
        self.ask("drop", {"handle": inputs.handle})

    def _state(self, case: Case) -> tuple[Any, int]:
        if case.name not in self._states:
            reply = self.ask("state", {"case": case.name})
            self._states[case.name] = (reply.value, reply.fds[0])
        return self._states[case.name]

    # Contenders
    # ------------------------------------------------------------------------------------------------

    def baselines(self) -> tuple[Baseline, ...]:
        """The backend's baselines that have not been found broken on this spec."""
        found = self.backend.baselines(self.spec, self.device)
        return tuple(b for b in found if b.name not in self._broken_baselines)

    @property
    def broken_baselines(self) -> Mapping[str, str]:
        """Baselines that could not run, with the reason."""
        return dict(self._broken_baselines)

    def baseline(self, which: Baseline, case: Case) -> Contender | None:
        """A baseline ready to run on ``case``; None (and remembered as broken) where it raises."""
        key = f"{which.name}/{case.name}"
        state, fd = self._state(case)
        try:
            if self._baselines is None or not self._baselines.alive:
                self._loaded["baselines"] = set()
                self._baselines = self._contender("baselines", trusted=True)
            if key not in self._loaded["baselines"]:
                arguments = {"key": key, "factory": which.factory, "case": case.name, "state": state}
                self._baselines.call("load_baseline", arguments, [fd])
                self._warm(Contender(which.name, self._baselines, key, _TRUSTED), case)
                self._loaded["baselines"].add(key)
        except WorkerError as error:
            if which.kind == "eager":
                raise _translated(error, self.spec) from error
            self._broken_baselines[which.name] = str(error)
            return None
        return Contender(which.name, self._baselines, key, _TRUSTED)

    def candidate(
        self, candidate: Candidate, artifact: Artifact, case: Case, *, lane: str = "candidate", name: str = ""
    ) -> Contender:
        """A candidate ready to run on ``case``. Each ``lane`` is a worker of its own that is reused from one
        candidate to the next. Raises WorkerError for whatever loading does to the worker."""
        worker = self._workers.get(lane)
        key = f"{candidate.id}/{artifact.key}/{case.name}"
        if worker is None or not worker.alive:
            worker = self._spares.take() or self._contender(lane, trusted=False)
            if not self.device.shares_host:  # there, starting one would disturb what is timed
                self._spares.start()
            self._workers[lane] = worker
            self._loaded[lane] = set()
        loaded = self._loaded[lane]
        if any(not k.startswith(candidate.id + "/") for k in loaded):
            worker.call("forget", limits=self.limits)
            loaded.clear()
        if key not in loaded:
            state, fd = self._state(case)
            arguments = {
                "key": key,
                "artifact": to_plain(artifact),
                "folder": str(self._materialise(candidate)),
                "symbol": candidate.symbol,
                "fallback_symbol": self.spec.reference.symbol,
                "state": state,
                "training": self.spec.mode == "train",
            }
            worker.call("load", arguments, [fd], limits=self.limits)
            loaded.add(key)
        return Contender(name or candidate.id, worker, key, self.limits, self.call_limits)

    def warm(self, note: Callable[[str], None]) -> None:
        """Start what the first evaluation will need while the specification is still being checked: a
        candidate worker, and the baselines with whatever they compile. Faults are left for that evaluation to
        meet."""
        with contextlib.suppress(KevolveError, OSError):
            self._workers["candidate"] = self._contender("candidate", trusted=False)
            self._loaded["candidate"] = set()
            for case in self.spec.timed_cases:
                for which in self.baselines():
                    if which.kind != "eager":
                        note(f"compiling the baseline {which.name} on case '{case.name}'")
                    self.baseline(which, case)

    def settle(self) -> None:
        """Wait until nothing is being started any more: before timing."""
        self._spares.settle()

    def retire(self, lane: str) -> None:
        """Kill a candidate worker: the next candidate of that lane gets a new process."""
        worker = self._workers.pop(lane, None)
        if worker is not None:
            worker.kill()

    def retire_baselines(self) -> None:
        """Kill the baselines' process: the next use starts a fresh one."""
        if self._baselines is not None:
            self._baselines.kill()
            self._baselines = None

    def close(self) -> None:
        """Kill every worker and remove the scratch directory. Safe to call again, and from another thread."""
        self._closed = True
        self._spares.close()
        for worker in list(self._spawned):
            worker.kill()
        self._workers.clear()
        self._oracle = self._baselines = None
        for inputs in list(self._kept.values()):  # another thread may still draw
            inputs.close()
        self._kept.clear()
        for _, fd in list(self._states.values()):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._states.clear()
        shutil.rmtree(self._workdir, ignore_errors=True)

    # Processes
    # -------------------------------------------------------------------------------------------------

    def _contender(self, name: str, *, trusted: bool) -> WorkerProcess:
        config = {
            "ref": to_plain(self._ref),
            "device": to_plain(self.device),
            "spec": to_plain(self.spec) if trusted else None,
            "threads": self._threads,
            "workdir": str(self._workdir / name),
            "grants": self._lifted.opened,
        }
        role = "kevolve_core.evaluate.contender:ContenderRole"
        boundary = None if trusted else self._lifted.boundary(self._workdir / name)
        environment = {**self._lifted.environment(), **self.backend.manifest.worker_environment}
        return self._spawn(name, role, config, trusted=trusted, boundary=boundary, environment=environment)

    def _spawn(
        self,
        name: str,
        role: str,
        config: Mapping[str, Any],
        *,
        trusted: bool = True,
        boundary: Mapping[str, Any] | None = None,
        environment: Mapping[str, str],
    ) -> WorkerProcess:
        self._spawned = [worker for worker in self._spawned if worker.alive]
        environment = {
            **environment,
            "OMP_NUM_THREADS": str(self._threads),
            "XDG_CACHE_HOME": str(cache_root().parent),
        }
        return WorkerProcess(
            role,
            config,
            workdir=self._workdir / name,
            environment=environment,
            limits=_TRUSTED if trusted else self.limits,
            drop_privileges=not trusted,
            boundary=boundary,
            name=name,
            on_started=self._track,
        )

    def _track(self, worker: WorkerProcess) -> None:
        """Also one whose start a `close` from another thread overtook ends with the session."""
        self._spawned.append(worker)
        if self._closed:
            worker.kill()

    def _materialise(self, candidate: Candidate) -> Path:
        folder = self._workdir / "candidates" / candidate.id
        if not folder.exists():
            for name, text in candidate.files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return folder

    def _warm(self, contender: Contender, case: Case) -> None:
        """First calls are not anybody's time: torch.compile compiles, allocators grow."""
        inputs = self.fresh(case)
        try:
            for _ in range(2):
                contender.prepare(inputs, flush=False, poison=0)
                contender.run()
        finally:
            self.drop(inputs)


def _inputs(reply: Reply) -> Inputs:
    return Inputs(reply.value["handle"], reply.value["label"], reply.value["layout"], reply.fds[0])


def _translated(error: WorkerError, spec: KernelSpec) -> KevolveError:
    """A failure of the reference in words of the spec."""
    if isinstance(error, RemoteError) and error.type in _USER_ERRORS:
        parts = {"where": spec.name, **error.parts}
        return SpecError(parts.pop("what", error.what.removeprefix(f"{error.type}: ")), **parts)
    log = getattr(error, "log", "")
    return SpecError(
        "the reference failed",
        got=error.what,
        where=spec.reference.path or spec.name,
        mend=f"run it in PyTorch on its own first\n{log}" if log else "run it in PyTorch on its own first",
    )


@contextlib.contextmanager
def closing(inputs: Inputs, session: Session) -> Iterator[Inputs]:
    """Drop ``inputs`` at the end, also when a worker dies in between."""
    try:
        yield inputs
    finally:
        session.drop(inputs)

"""The interfaces between the core and plugins: Protocols only.

Any class that has the methods is a `Backend`, a `Runner` and so on. One that names the Protocol as its base
class is told at once which method it lacks, and need not write those for which "nothing" is a right answer:
they have a body here.

Parts of a `Backend` are created lazily and may import the vendor's libraries only then. A `Compiler` needs no
device. A `Runner` lives in a worker process and supplies primitives; what judges (oracle, tolerance,
statistics, rules) is the core's. See ``docs/architecture.md`` for the flow.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import field, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Attention, Program, Step
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Evaluation, Profile, Target, freeze
from kevolve_core.space import Point, Preference, Space

__all__ = [
    "API_VERSION", "Backend", "Baseline", "BackendRef", "CAPABILITIES", "Checked", "CodeGenerator",
    "Compiler",
    "EvaluationRequest", "Executor", "Journaled", "Learner", "Manifest", "Preferring", "Profiler",
    "Proposal", "Renderer", "Runner", "SelectionPolicy", "Selective", "Work",
]  # fmt: skip

#: (major, minor) of everything in this module, `kevolve_core.model`, `kevolve_core.ir` and the hooks.
API_VERSION = (1, 0)

#: Capability of a backend -> what declaring it promises.
CAPABILITIES: Mapping[str, str] = {
    "compile": "`Backend.compiler` builds candidates of the manifest's languages, without the device",
    "run": "`Backend.runner` runs what was built on the device, or on what stands for it",
    "time": "the runner's `timestamp` and `elapsed` are times of the class of evidence that the manifest "
    "states",
    "profile": "`Backend.profiler` knows a floor and explains a time",
    "counters": "the runner's `counters` count what the device did",
    "synth": "`Backend.renderers` print the loop IR, and `Backend.schedule_space` has their tunables",
}


@frozen
class Manifest:
    """What a backend plugin declares before anything of it runs.

    Args:
        name: the backend's name (``cpu``), unique among plugins.
        api_version: (major, minor) of `API_VERSION` it was built for.
        languages: candidate languages it compiles.
        capabilities: from `CAPABILITIES`; a device's
            probe may only narrow them and calling an undeclared one raises `UndeclaredCapabilityError`.
        evidence: the class of its times (``measured``, ``simulated``, …).
        options_schema: JSON Schema of its options in ``plugins.toml``.
        needs: what compile and run need beyond the sandbox, by phase
            (``{"run": {"network": ["licence.example.com:27000"]}}``); ``plugins.toml`` has to grant it. Keys
            are those of `kevolve_core.registry.needs`.
        worker_environment: environment variables its worker processes start with, the same for every side.
        description: one line.
        modules: Python modules of its languages that a candidate's entry may import (``acme_dsl``), beside
            torch and those that every candidate may.
        confidential: nothing that derives from this backend (its pages, diagnostics, counters, sources,
            skills) may reach a reader who is not allowed to see it.
    """

    name: str
    api_version: tuple[int, int]
    languages: tuple[str, ...]
    capabilities: frozenset[str]
    evidence: str = "measured"
    options_schema: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    needs: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    worker_environment: Mapping[str, str] = field(factory=dict, converter=freeze, hash=False)
    description: str = ""
    modules: tuple[str, ...] = ()
    confidential: bool = False


@frozen
class BackendRef:
    """How a worker process finds a backend again: the plugin object ``module:attribute``, the options
    granted, and what of the sandbox is lifted for a worker that runs its candidates (the grants of
    `kevolve_core.registry.needs`)."""

    plugin: str
    backend: str
    options: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    grants: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)


@frozen
class Baseline:
    """One baseline of a spec on a device.

    ``factory`` is ``module:function``; in a worker it is called with the reference callable (module or
    function, on the device, in the spec's mode) and must return a callable of the same signature. ``kind`` is
    ``eager``, ``compiled``, ``vendor`` or ``kernel``; the ``eager`` one is the parity policy's yardstick.
    """

    name: str
    kind: str
    factory: str


@runtime_checkable
class Checked(Protocol):
    """A part (a compiler, a generator) that can say before a run begins that it cannot do its work here."""

    def check(self) -> None:
        """Raise the `KevolveError` that the work would meet: no compiler, a reference that cannot be
        captured."""
        ...


class Compiler(Protocol):
    """Builds candidates. Thread-safe; several compiles may run at once."""

    @abstractmethod
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        """Build what ``candidate`` needs for ``case``, from the cache where its key is there.

        Raises:
            CompileError: the candidate's fault; has the log.
            ToolchainMissingError: no compiler; names the package to install.
            UnsupportedError: this target cannot build it.
        """
        ...


class Runner(Protocol):
    """Device primitives, in a worker. Buffers are opaque to the core; a torch device uses tensors."""

    def open(self, workdir: Path) -> None:
        """Acquire the device and warm the process (imports, pools). Called once, before candidate code. By
        default there is nothing to acquire."""

    @abstractmethod
    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        """Make the candidate callable: import its Python entry with its native files bound to the artifact's,
        or, for a language whose entry is no Python, open what the compiler built.

        Returns the entry module, or any object that has the candidate's symbol as an attribute: a function
        called with what `upload` returned and scalars, returning new device buffers in the reference's
        structure; or an ``nn.Module`` class. An object (or class, constructed as the reference's is) that is
        no ``nn.Module`` and has ``load_state_dict`` is given the reference's weights as device buffers by
        name.
        Raises whatever the candidate's import raises."""
        ...

    @abstractmethod
    def upload(self, tensor: Any, *, guarded: bool = False) -> Any:
        """A device buffer holding a copy of a CPU tensor, same shape and strides, at a new address: a tensor
        where PyTorch knows the device, else an object of one type of the runner's own. Raises
        UnsupportedError for an element type that the device lacks. A ``guarded`` one is for correctness,
        never for timing: where the device can, a read past its end faults.
        """
        ...

    @abstractmethod
    def download(self, buffer: Any) -> Any:
        """A CPU tensor with the content of a device buffer (may share memory)."""
        ...

    def to_device(self, module: Any) -> Any:
        """Move an ``nn.Module``'s state to the device. By default it stays where it is: PyTorch does not know
        the device."""
        return module

    @abstractmethod
    def synchronize(self) -> None:
        """Return when all work given to the device has ended."""
        ...

    @abstractmethod
    def timestamp(self) -> Any:
        """A mark on the device's clock, after the work given so far."""
        ...

    @abstractmethod
    def elapsed(self, start: Any, end: Any) -> float:
        """Seconds of the device's clock between two marks; after `synchronize`."""
        ...

    @abstractmethod
    def flush_cache(self) -> None:
        """Evict caches by touching at least twice their size."""
        ...

    @abstractmethod
    def poison(self, nbytes: int) -> None:
        """Fill about ``nbytes`` of free memory with NaN so that stale results are not found there."""
        ...

    def counters(self) -> Mapping[str, float]:
        """Running totals of this process that explain time (page faults, CPU seconds, …); {} for none, which
        is the default."""
        return {}

    def foreign_activity(self) -> str:
        """What runs beside the candidate that its language did not declare (threads, streams), or "", which
        is the default."""
        return ""

    def reset(self) -> None:
        """Forget the loaded candidate and free its memory. By default the runner keeps nothing of it."""


@frozen
class Work:
    """Compulsory work of one case: what any correct kernel must move and compute."""

    bytes: float
    flops: float
    library_flops: float = 0.0


class Profiler(Protocol):
    """Explains a candidate's time. ``seconds`` is its median time on ``case``; ``counters`` are what the
    worker sampled around timed calls (hardware counters where readable)."""

    @abstractmethod
    def floor(self, work: Work) -> float:
        """Seconds under which no correct kernel can stay: compulsory bytes over the measured bandwidth, plus
        the launch. Times well under it are not believed."""
        ...

    @abstractmethod
    def profile(
        self,
        spec: KernelSpec,
        case: Case,
        work: Work,
        seconds: float,
        artifact: Artifact,
        counters: Mapping[str, float],
    ) -> Profile: ...


class Renderer(Protocol):
    """Prints a lowered program in one language.

    ``programs`` has one program a case of the spec, with the same steps' names where the reference's graph is
    the same. ``choices`` maps a step's name to a point of its schedule space. The source it returns is
    deterministic in its arguments.
    """

    @property
    @abstractmethod
    def language(self) -> str: ...

    @abstractmethod
    def supports(self, step: Step) -> str:
        """Empty when this renderer can print ``step``, else the reason it cannot."""
        ...

    @abstractmethod
    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        """A candidate covering every case; its ``libraries`` are the library calls that it makes (a choice
        may be to make none). Raises UnsupportedError for what it cannot print."""
        ...


@runtime_checkable
class Selective(Protocol):
    """What a renderer may also have: programs that it could print and has nothing to add to, since another
    language of the backend's gives the same."""

    def declines(self, programs: Sequence[Program]) -> str:
        """Why these should be left to other languages; empty where they should not."""
        ...


#: The name under which genomes and a renderer's ``choices`` have those about a program as a whole.
PROGRAM = "program"


@runtime_checkable
class Programming(Protocol):
    """What a renderer may also have: choices about programs as a whole, such as how their launches are made.
    Its ``render`` finds the point under `PROGRAM`; where there is none, it is the space's default."""

    def program_space(self, programs: Sequence[Program], device: Device) -> Space:
        """The choices for ``programs`` on ``device``; an empty space where there are none."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """What a runner may also have: how it made the loaded program's launches, beside what the text says."""

    def remarks(self) -> Mapping[str, str]:
        """In words, after a call: ``{"CUDA graph": "yes"}``. Empty where there is nothing to say."""
        ...


@runtime_checkable
class Fusing(Protocol):
    """What a renderer may also have: kernels for steps that are made of others. A renderer without this is
    given their parts instead."""

    def fuses(self, step: Attention) -> str:
        """Empty when ``step`` can be printed as one kernel, else why not."""
        ...


class Backend(Protocol):
    """A target. Everything but ``manifest`` is lazy; no method but `probe` and `runner` may need the
    device."""

    @property
    @abstractmethod
    def manifest(self) -> Manifest: ...

    @abstractmethod
    def probe(self) -> Sequence[Device]:
        """Devices on this machine; never raises; called in a subprocess with a time limit."""
        ...

    def renderers(self) -> Mapping[str, Renderer]:
        """Language -> what prints the loop IR in it; by default none does."""
        return {}

    @abstractmethod
    def compiler(self, device: Device) -> Compiler: ...

    @abstractmethod
    def runner(self, device: Device) -> Runner: ...

    def profiler(self, device: Device) -> Profiler | None:
        """What explains times on ``device``; by default nothing does."""
        return None

    def baselines(self, spec: KernelSpec, device: Device) -> Sequence[Baseline]:
        """What a kernel has to beat. By default nothing of the target's own: kernels are then held against
        the unfused program."""
        return ()

    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        """Tunables of one step (a `LoopNest` or `LibraryCall`; an `Attention` too where the language's
        renderer is `Fusing`) in ``language``; by default there are none."""
        return Space()

    def standalone_loader(self, language: str) -> str:
        """Python source that defines `load_native` for exported kernels of ``language``: it finds the text of
        native files in the module's dict ``_SOURCES``, builds on first use and needs nothing of Kevolve.

        Raises:
            UnsupportedError: kernels of ``language`` do not run without Kevolve, which is the default.
        """
        raise UnsupportedError(
            f"kernels of language '{language}' do not run without Kevolve",
            where=f"backend '{self.manifest.name}'",
            mend="ship the bundle, or give the backend a `standalone_loader`",
        )

    def knowledge(self) -> Iterable[Path]:
        """Folders of knowledge pages; by default there are none."""
        return ()


@frozen
class Proposal:
    """What a generator is told.

    Args:
        spec: what to compute.
        device: for what.
        sequence: number of this proposal in the run; random choices come from ``(seed, sequence)`` alone.
        seed: the run's seed.
        operator: what the policy asks for: ``draft``, ``mutate``, ``crossover``, or ``sample`` (a uniform
            draw, for controls). A generator treats one that it does not know as ``draft``.
        parents: candidates to start from, best first.
        evaluations: parent id -> its evaluation.
        attempt: 0, or the count of earlier tries of this sequence that gave a duplicate.
        knowledge: retrieved documents.
        told: how many proposals of the run had been told when this one was asked for: what a `Learner` may
            use without its choice depending on timing.
        lane: ``warm`` (knowledge and experience may be used), ``cold`` (they may not) or "" (no lanes).
        preference: what the policy thinks of genomes. A generator to whom candidates cost nothing before they
            are rendered draws a pool of genomes, and renders the most preferred (`space.preferred`, with
            ``attempt`` to skip); others ignore it.
        experience: genomes that did well on similar problems, to start a draft of the warm lane from.
        part: which generator of a mix is to answer, "" where the run has one.
    """

    spec: KernelSpec
    device: Device
    sequence: int
    seed: int
    operator: str = "draft"
    parents: tuple[Candidate, ...] = ()
    evaluations: Mapping[str, Evaluation] = field(factory=dict, converter=freeze, hash=False)
    attempt: int = 0
    knowledge: tuple[str, ...] = ()
    told: int = 0
    lane: str = ""
    preference: Preference | None = field(default=None, eq=False)
    experience: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    part: str = ""


@runtime_checkable
class CodeGenerator(Protocol):
    """Proposes candidates. Deterministic in the proposal, unless it declares otherwise."""

    name: str

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        """Up to ``n`` candidates; an empty sequence when it has nothing more to propose."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A generator that learns from evaluations: it has this method beside `CodeGenerator`'s."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """The evaluation of proposal ``sequence``; in order of sequence, from the store's rows on resuming.
        Calls of `propose` may use proposals under `Proposal.told` and no later ones."""
        ...


@runtime_checkable
class Journaled(Protocol):
    """A generator that pays for what it proposes and keeps a journal of it with the run."""

    def open(self, run: Path, *, tokens: int | None = None, money: float | None = None) -> None:
        """Called once in a sitting, before `propose`. ``run`` is the run's folder, locked for this process;
        ``tokens`` and ``money`` are hard caps over all sittings, None for no cap."""
        ...

    async def close(self) -> None:
        """Called once at the end of a sitting, in its event loop: give back connections."""
        ...


class SelectionPolicy(Protocol):
    """Ask/tell search. State is a fold over `asked` and `tell` in sequence order, so a resumed run rebuilds
    it from the store. Every call is O(log population) or better."""

    name: str

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        """(operator, parent candidate ids) for proposal ``sequence``; pure in the state and its arguments."""
        ...

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Proposal ``sequence`` was made so (virtual losses, visit counts)."""
        ...

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None: ...


@runtime_checkable
class Preferring(Protocol):
    """A selection policy that also says which genomes it would like to see has this method beside
    `SelectionPolicy`'s."""

    def preference(self, sequence: int, seed: int) -> Preference | None:
        """For proposal ``sequence``, from the state of now; what is returned does not change with later
        tells. None while it knows nothing."""
        ...


@frozen
class EvaluationRequest:
    """One evaluation: ``stages`` names those to run, in pipeline order."""

    spec: KernelSpec
    candidate: Candidate
    stages: tuple[str, ...]
    seed: int = 0


class Executor(Protocol):
    """Where evaluations run. Futures resolve to an `Evaluation` for every fault of the candidate; they raise
    only for faults of the installation (no compiler, device lost, full disk)."""

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]: ...

    def close(self) -> None:
        """Stop workers; outstanding futures are cancelled."""
        ...

"""`SynthGenerator`: candidates from the operator graph, without a language model."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve

from kevolve_core.errors import UnsupportedError
from kevolve_core.interfaces import PROGRAM, Fusing, Programming, Proposal, Renderer, Selective, Work
from kevolve_core.ir import Attention, LibraryCall, Program, Step
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Candidate, Device, Origin
from kevolve_core.space import Point, Space
from kevolve_core.synth.alike import leaders
from kevolve_core.synth.channels import CHANNELS_LAST, CONVERTS, LAYOUTS, preferred
from kevolve_core.synth.genome import Genome, crossed, moved_partition, moved_steps, sampled_steps, stepped
from kevolve_core.synth.graph import Graph
from kevolve_core.synth.joins import CAT_IN_PLACE
from kevolve_core.synth.online_attention import ONLINE_ATTENTION
from kevolve_core.synth.program import Partition, Synthesised, synthesise
from kevolve_core.synth.reference import graph_of
from kevolve_core.synth.windowed import DEPTHWISE, LIBRARY, WINDOWED_CONVOLUTION, WINDOWS
from kevolve_core.synth.work import program_work

__all__ = ["SynthGenerator"]

SpaceOf = Callable[[Step, Device, str], Space]
_TRIES = 32  # draws of a distinct, printable candidate before the generator says it has nothing more
_POOL = 160  # genomes that a policy's preference chooses from: some ten milliseconds unrendered (estimated)
_ANYWHERE = 0.25  # share of them that is drawn from the whole space (estimated)
_GRAPH_MOVES = 0.2  # share of mutations that change the partition, estimated


class SynthGenerator:
    """Proposes programs lowered from the reference's graph, printed by a backend's renderers.

    Draft 0 is the default point with everything fused; the next are the same with what a backend would choose
    about the whole program (`kevolve_core.interfaces.Programming`), the same in the other order of memory
    (where the device's fact `kevolve_core.synth.channels.LAYOUTS` has two and a library runs convolutions),
    the same with depthwise convolutions as the library's (where they are sums over windows, or the other way
    round: the device's fact `kevolve_core.synth.windowed.DEPTHWISE`),
    the same with concatenations copied (where some are put together in place),
    the same with attention in parts (where the language has one kernel for it), the default of every other
    language and the spaces' ``starts``; later drafts sample schedules and
    partitions. Under the ``parity`` policy spaces are without their ``coarse`` choices;
    ``mutate`` and ``crossover`` start from the parents' genomes (where none has one, a draft is made);
    ``sample`` is a uniform draw. Where the policy has a preference, it chooses from a pool of genomes before
    one is rendered; a draft that is given experience starts from that.
    Candidates depend on (seed, sequence, attempt) and the parents' genomes alone.

    Args:
        spec: what to compute.
        renderers: language -> renderer.
        schedule_space: tunables of a step on a device in a language.
        device: for what.
        graph: how a case becomes a graph; tests and embedders may pass their own, for instance
            ``partial(graph_of, without=["batch_norm_folding"])``.

    Raises (from `propose` and `programs`):
        CaptureError, SpecError: the reference cannot be captured.
        UnsupportedError: no language can print the program; names the step and the reason.
    """

    name = "synth"

    def __init__(
        self,
        spec: KernelSpec,
        renderers: Mapping[str, Renderer],
        schedule_space: SpaceOf,
        device: Device,
        graph: Callable[[KernelSpec, Case], Graph] = graph_of,
    ) -> None:
        self._spec = spec
        self._renderers = dict(renderers)
        self._space_of = schedule_space
        self._device = device
        self._graph_of = graph
        self._graphs: dict[str, Graph] = {}
        self._first_partition: Partition | None = None
        self._defaults: dict[str, Partition] = {}  # of the languages that are offered
        self._synthesised: dict[Partition, tuple[Synthesised, ...]] = {}
        self._spaces: dict[tuple[Partition, str], dict[str, Space]] = {}
        self._firsts: dict[tuple[Partition, bool], Mapping[str, str]] = {}
        self._lock = threading.Lock()

    # --- what callers may ask -------------------------------------------------------------------------------

    def programs(self, partition: Partition | None = None) -> tuple[Program, ...]:
        """The program of every case, in the spec's order; by default that of the first draft."""
        with self._lock:
            return tuple(s.program for s in self._programs(partition or self._usual()))

    def check(self) -> None:
        """Capture and lower every case, and see that some language can print it. Raises as `propose` does."""
        with self._lock:
            self._languages()

    def work(self) -> Mapping[str, Work]:
        """Compulsory work by case's name."""
        return {p.case: program_work(p) for p in self.programs()}

    def library_calls(self) -> tuple[str, ...]:
        """Library operators that the default program calls."""
        return _libraries(self.programs())

    def default(self) -> Candidate:
        """Everything fused that can be, on the default schedule: the first draft of every run."""
        with self._lock:
            return self._first(self._defaults[self._languages()[0]], "default")

    def unfused(self) -> Candidate:
        """A kernel an operator, on the default schedule: what fusing and searching is held against where a
        target has no tensor library of its own."""
        with self._lock:
            usual = self._usual()
            points = frozenset(self._programs(usual)[0].points)
            partition = evolve(usual, stored=points, in_place=False)
            while cut := frozenset(self._programs(partition)[0].edges) - partition.apart:
                partition = evolve(partition, apart=partition.apart | cut)
            return self._first(partition, "unfused")

    def _first(self, partition: Partition, note: str) -> Candidate:
        genome = self._with_steps(Genome(self._languages()[0], partition), {})
        context = Proposal(self._spec, self._device, 0, 0, parents=())
        return self._candidate(genome, context, note)

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        """Up to ``n`` distinct candidates. The work runs in a thread; capture and lowering are cached."""
        return await asyncio.to_thread(self.propose_now, context, n)

    def propose_now(self, context: Proposal, n: int) -> Sequence[Candidate]:
        """`propose` without an event loop."""
        with self._lock:
            found: dict[str, Candidate] = {p.id: p for p in context.parents}
            out: list[Candidate] = []
            refusal: UnsupportedError | None = None
            for genome, note in self._genomes(context, n + _TRIES):
                if len(out) == n:
                    break
                try:
                    candidate = self._candidate(genome, context, note)
                except UnsupportedError as error:
                    refusal = refusal or error
                    continue
                if candidate.id not in found:
                    found[candidate.id] = candidate
                    out.append(candidate)
            if not out and refusal is not None:
                raise refusal
            return out

    # --- genomes --------------------------------------------------------------------------------------------

    def _genomes(self, context: Proposal, count: int) -> Iterator[tuple[Genome, str]]:
        """Up to ``count`` genomes to try, in order: what experience or the policy prefers, then draws."""
        for recorded in context.experience if context.attempt == 0 else ():
            genome = Genome.parsed(recorded)
            if genome is not None and genome.language in self._renderers:
                yield self._with_steps(genome, self._renamed(genome)), "experience"
        if context.preference is not None and context.operator != "sample":
            pool = self._pool(context)
            worth = context.preference([genome.plain() for genome in pool])
            ranked = sorted(range(len(pool)), key=lambda place: -worth[place])
            for place in ranked[context.attempt : count]:
                if worth[place] > -math.inf:
                    yield pool[place], "preferred"
        for attempt in range(count):
            rng = random.Random(f"{context.seed}:{context.sequence}:{context.attempt}:{attempt}")
            yield self._genome(context, rng, attempt)

    def _renamed(self, genome: Genome) -> Mapping[str, Point]:
        """Schedules under this graph's names: a similar reference's steps have others, and where there are as
        many, their order says which is which."""
        names = [n for n in self._spaces_of(genome.partition, genome.language) if n != PROGRAM]
        steps = {n: point for n, point in genome.steps.items() if n != PROGRAM}
        if len(names) != len(steps) or not set(names).isdisjoint(steps):
            return genome.steps
        whole = {n: point for n, point in genome.steps.items() if n == PROGRAM}
        return whole | dict(zip(names, steps.values(), strict=True))

    def _parents(self, context: Proposal) -> list[Genome]:
        parents = [g for p in context.parents if (g := Genome.parsed(p.genome)) is not None]
        return [g for g in parents if g.language in self._renderers]

    def _pool(self, context: Proposal) -> list[Genome]:
        """Distinct genomes for a policy to choose from: one to three moves from the parents (of a draft: from
        the default), and uniform schedules of their partitions, so that a preference is never shut in. Not
        rendered, so they cost next to nothing; one new partition at most, which has to be lowered."""
        rng = random.Random(f"{context.seed}:{context.sequence}:pool")
        parents = self._parents(context) if context.operator != "draft" else []
        starts = parents or [Genome(language, self._defaults[language]) for language in self._languages()]
        moved = self._moved(starts[0].partition, starts[0].language, rng)
        starts.append(evolve(starts[0], partition=moved))
        spaces = [self._spaces_of(start.partition, start.language) for start in starts]
        known = [moved_steps(s.steps, own, rng, 0) for s, own in zip(starts, spaces, strict=True)]
        pool: dict[tuple[Any, ...], Genome] = {}
        for number in range(_POOL):
            place = number % len(starts)
            start, own = starts[place], spaces[place]
            if rng.random() < (_ANYWHERE if parents else 0.5):
                steps = sampled_steps(own, rng)
            else:
                steps = stepped(known[place], own, rng, rng.randint(1, 3))
            values = tuple(tuple(point.values()) for point in steps.values())
            key = (start.language, start.partition, values)
            if key not in pool:
                pool[key] = evolve(start, steps=steps)
        return list(pool.values())

    def _genome(self, context: Proposal, rng: random.Random, attempt: int) -> tuple[Genome, str]:
        parents = self._parents(context)
        strength = 1 + context.attempt + attempt // 2
        if context.operator == "crossover" and len(parents) > 1:
            child = crossed(parents[0], parents[1], rng)
            moves = 0 if attempt == 0 and context.attempt == 0 else strength
            spaces = self._spaces_of(child.partition, child.language)
            return evolve(child, steps=moved_steps(child.steps, spaces, rng, moves)), "crossover"
        if context.operator == "sample":
            return self._sampled(rng)
        if context.operator != "draft" and parents:
            return self._mutated(parents[0], rng, strength)
        return self._draft(context, rng, attempt)

    def _draft(self, context: Proposal, rng: random.Random, attempt: int) -> tuple[Genome, str]:
        languages = self._languages()
        if context.attempt == 0 and attempt == 0:
            if context.sequence == 0:
                return self._with_steps(Genome(languages[0], self._defaults[languages[0]]), {}), "default"
            if context.sequence <= len(started := self._started()):
                return started[context.sequence - 1]
        if rng.random() < 0.5:
            return self._sampled(rng)
        language = rng.choice(languages)
        partition = self._defaults[language]
        if rng.random() < _GRAPH_MOVES:
            partition = self._moved(partition, language, rng)
        spaces = self._spaces_of(partition, language)
        return Genome(language, partition, moved_steps({}, spaces, rng, rng.randint(1, 3))), "near default"

    def _started(self) -> list[tuple[Genome, str]]:
        """What is tried right after the default: the same with the starts of the choices about the program,
        where there are any; the same in the other order of memory, where there are two, with depthwise
        convolutions the other way, where there are any, with concatenations copied, where some are in place,
        and with attention in parts, where it is one step; the defaults of the other languages; then every
        language's first start, second start, and so on. Steps that have fewer keep their default."""
        languages = self._languages()
        usual = self._defaults
        others = languages[1:]
        found = [(self._with_steps(Genome(language, usual[language]), {}), "default") for language in others]
        if (first := usual[languages[0]]).attention:
            parts = Genome(languages[0], evolve(first, attention=False))
            found.insert(0, (self._with_steps(parts, {}), "attention in parts"))
        if any(s.joined for s in self._programs(first)):
            copied = Genome(languages[0], evolve(first, in_place=False))
            found.insert(0, (self._with_steps(copied, {}), "copies"))
        if self._has_windows():
            turned = evolve(first, windowed=not first.windowed)
            note = WINDOWS if turned.windowed else LIBRARY
            found.insert(0, (self._with_steps(Genome(languages[0], turned), {}), note))
        if self._has_layouts():
            other = Genome(languages[0], _turned(usual[languages[0]]))
            found.insert(0, (self._with_steps(other, {}), "layout"))
        first_spaces = self._spaces_of(usual[languages[0]], languages[0])
        for point in first_spaces[PROGRAM].started() if PROGRAM in first_spaces else ():
            whole = self._with_steps(Genome(languages[0], usual[languages[0]]), {PROGRAM: point})
            found.insert(0, (whole, "program"))
        starts = {
            language: {n: s.started() for n, s in self._spaces_of(usual[language], language).items()}
            for language in languages
        }
        for k in range(max((len(v) for of in starts.values() for v in of.values()), default=0)):
            for language, of in starts.items():
                steps = {name: points[k] for name, points in of.items() if k < len(points)}
                if steps:
                    found.append((self._with_steps(Genome(language, usual[language]), steps), "start"))
        return found

    def _sampled(self, rng: random.Random) -> tuple[Genome, str]:
        """A uniform schedule; a share of them of another partition."""
        language = rng.choice(self._languages())
        partition = self._defaults[language]
        if rng.random() < _GRAPH_MOVES:
            partition = self._moved(partition, language, rng)
        return Genome(language, partition, sampled_steps(self._spaces_of(partition, language), rng)), "sample"

    def _mutated(self, parent: Genome, rng: random.Random, strength: int) -> tuple[Genome, str]:
        partition, note = parent.partition, "schedule"
        if rng.random() < _GRAPH_MOVES:
            partition = self._moved(partition, parent.language, rng)
            note = "partition"
        spaces = self._spaces_of(partition, parent.language)
        moves = 0 if partition != parent.partition else min(6, strength + (rng.random() < 0.3))
        known = parent.steps if partition == parent.partition else self._everyones(parent)
        return Genome(parent.language, partition, moved_steps(known, spaces, rng, moves)), note

    def _moved(self, partition: Partition, language: str, rng: random.Random) -> Partition:
        first = self._programs(partition)[0]
        has_library = any(isinstance(s, LibraryCall) for s in first.program.steps)
        return moved_partition(
            partition, first.edges, first.shared, has_library, rng, first.tables, self._has_layouts(),
            self._fuses(language, partition), bool(first.joined), self._has_windows(),
        )  # fmt: skip

    def _with_steps(self, genome: Genome, steps: Mapping[str, Mapping[str, object]]) -> Genome:
        spaces = self._spaces_of(genome.partition, genome.language)
        return evolve(genome, steps={n: s.repaired(steps.get(n, {})) for n, s in spaces.items()})

    # --- programs -------------------------------------------------------------------------------------------

    def _cases(self) -> Sequence[Case]:
        return self._spec.cases

    def _captured(self) -> Mapping[str, Graph]:
        """The graph of every case."""
        for case in self._cases():
            if case.name not in self._graphs:
                self._graphs[case.name] = self._graph_of(self._spec, case)
        return self._graphs

    def _layouts(self) -> Sequence[str]:
        """Orders of memory for convolutions that the device's library has kernels for, the usual first."""
        return tuple(self._device.facts.get(LAYOUTS, ()))

    def _has_layouts(self) -> bool:
        """Whether there are convolutions whose order of memory is a choice on this device."""
        return CHANNELS_LAST in self._layouts() and any(g.channels_last for g in self._captured().values())

    def _has_windows(self) -> bool:
        """Whether there are convolutions that may be sums over windows."""
        return any(g.windowed for g in self._captured().values())

    def _usual(self) -> Partition:
        """The partition of the first draft: everything fused, and channels-last memory for convolutions
        where the device prefers it and they are of a kind that gains."""
        if self._first_partition is None:
            first = self._layouts()[:1] == (CHANNELS_LAST,)
            converts = bool(self._device.facts.get(CONVERTS))
            gains = first and all(preferred(g, converts) for g in self._captured().values())
            windows = self._device.facts.get(DEPTHWISE, WINDOWS) == WINDOWS
            self._first_partition = Partition(
                channels_last=gains, windowed=windows or not self._has_windows()
            )
        return self._first_partition

    def _programs(self, partition: Partition) -> tuple[Synthesised, ...]:
        if partition not in self._synthesised:
            graphs = self._captured()
            self._synthesised[partition] = tuple(
                synthesise(graphs[c.name], c.name, partition) for c in self._cases()
            )
        return self._synthesised[partition]

    def _fuses(self, language: str, partition: Partition) -> bool:
        """Whether attention may be one step in ``language``, and there is any."""
        fuses = isinstance(self._renderers[language], Fusing)
        return fuses and any(s.attentions for s in self._programs(partition))

    def _shown(self, partition: Partition, language: str) -> list[Program]:
        """The programs as the renderer of ``language`` is to see them."""
        programs = [s.program for s in self._programs(partition)]
        if isinstance(self._renderers[language], Fusing):
            return programs
        return [evolve(p, steps=tuple(p.singles())) for p in programs]

    def _steps(self, partition: Partition, language: str) -> dict[str, Step]:
        """A step by name, of the case that counts most: what its schedule space is made from."""
        weight = {c.name: (c.role == "tune", c.weight) for c in self._cases()}
        programs = self._shown(partition, language)
        found: dict[str, Step] = {}
        for program in sorted(programs, key=lambda p: weight[p.case], reverse=True):
            for step in program.steps:
                found.setdefault(step.name, step)
        return found

    def _leaders(self, partition: Partition, language: str) -> Mapping[str, str]:
        """Of each step, the one whose schedule it has: see `kevolve_core.synth.alike.leaders`."""
        key = (partition, isinstance(self._renderers[language], Fusing))
        if key not in self._firsts:
            self._firsts[key] = leaders(self._shown(partition, language))
        return self._firsts[key]

    def _everyones(self, genome: Genome) -> dict[str, Point]:
        """The schedules of ``genome``, those of steps that share one included."""
        first = self._leaders(genome.partition, genome.language)
        shared = {n: genome.steps[by] for n, by in first.items() if by in genome.steps}
        return {**shared, **genome.steps}

    def _spaces_of(self, partition: Partition, language: str) -> dict[str, Space]:
        key = (partition, language)
        if key not in self._spaces:
            first = self._leaders(partition, language)
            spaces = {
                name: self._space_of(step, self._device, language)
                for name, step in self._steps(partition, language).items()
                if first[name] == name
            }
            renderer = self._renderers[language]
            if isinstance(renderer, Programming):
                whole = renderer.program_space(self._shown(partition, language), self._device)
                if whole.parameters:
                    spaces[PROGRAM] = whole
            if self._spec.precision.policy == "parity":
                spaces = {name: space.exact() for name, space in spaces.items()}
            self._spaces[key] = spaces
        return self._spaces[key]

    def _languages(self) -> list[str]:
        """Languages that can print every step of their default program, and have something of their own in
        it."""
        if not self._defaults:
            reasons = [why for language in self._renderers if (why := self._settled(language))]
            if not self._defaults:
                raise UnsupportedError(
                    "no language of this backend can print the reference's program",
                    got="; ".join(reasons) or "no renderer",
                    where=self._spec.name,
                )
        return list(self._defaults)

    def _settled(self, language: str) -> str:
        """Why ``language`` is not offered; where it is, its default partition is noted: the usual one, with
        attention as one step where it has a kernel for that, or that in the other order of memory where it
        has nothing for the usual one."""
        usual = self._usual()
        choices = [usual, *([_turned(usual)] if self._has_layouts() else [])]
        if self._fuses(language, usual):
            choices = [x for p in choices for x in (evolve(p, attention=True), p)]
        refusals: list[str] = []
        for partition in choices:
            why = self._refusal(language, partition)
            if not why:
                self._defaults[language] = partition
                return ""
            refusals.append(f"{language}: {why}")
        return refusals[0]

    def _refusal(self, language: str, partition: Partition) -> str:
        """The first step that ``language`` cannot print, or why it declines the programs; empty for none."""
        renderer, programs = self._renderers[language], self._shown(partition, language)
        first = self._leaders(partition, language)
        for program in programs:
            for step in program.steps:
                if first[step.name] != step.name:
                    continue
                if isinstance(step, Attention) and isinstance(renderer, Fusing):
                    reason = renderer.fuses(step)
                else:
                    reason = renderer.supports(step)
                if reason:
                    return f"{step.name}: {reason}"
        return renderer.declines(programs) if isinstance(renderer, Selective) else ""

    def _rewrites(self, partition: Partition) -> str:
        """Names of the graph's rewrites that changed any case under ``partition``."""
        names = dict.fromkeys(name for g in self._graphs.values() for name in g.rewrites)
        if not partition.channels_last:
            names.pop(CHANNELS_LAST, None)
        if not (partition.attention and any(s.attentions for s in self._programs(partition))):
            names.pop(ONLINE_ATTENTION, None)
        if not (partition.in_place and any(s.joined for s in self._programs(partition))):
            names.pop(CAT_IN_PLACE, None)
        if not partition.windowed:
            names.pop(WINDOWED_CONVOLUTION, None)
        return ", ".join(names)

    def _candidate(self, genome: Genome, context: Proposal, note: str) -> Candidate:
        programs = self._shown(genome.partition, genome.language)
        renderer = self._renderers[genome.language]
        candidate = renderer.render(self._spec, programs, self._everyones(genome))
        notes = {"move": note, "rewrites": self._rewrites(genome.partition)}
        return evolve(
            candidate,
            genome=genome.plain(),
            parents=tuple(p.id for p in context.parents),
            libraries=tuple(sorted(candidate.libraries)),
            origin=Origin(self.name, context.operator, notes),
        )


def _turned(partition: Partition) -> Partition:
    """``partition`` in the other order of memory."""
    return evolve(partition, channels_last=not partition.channels_last)


def _libraries(programs: Sequence[Program]) -> tuple[str, ...]:
    return tuple(sorted({s.op for p in programs for s in p.steps if isinstance(s, LibraryCall)}))

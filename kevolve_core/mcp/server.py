"""The server: tools over stdio, with the official ``mcp`` package (tested with 2.3)."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from kevolve_core import api
from kevolve_core.api.asking import Asked, is_request, resolve_request
from kevolve_core.api.evaluating import EVALUATE_STAGES, candidate_ids, stored_evaluation
from kevolve_core.api.parts import Place, as_spec, place
from kevolve_core.errors import ConfigError, KevolveError, UnknownNameError
from kevolve_core.evolve import Budget, collect
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge import Query
from kevolve_core.knowledge.operators import canonical
from kevolve_core.mcp.arguments import candidate_of, spec_of_text
from kevolve_core.mcp.briefs import (
    candidate_brief,
    device_brief,
    evaluation_brief,
    profile_brief,
    spec_brief,
)
from kevolve_core.mcp.desk import Desk
from kevolve_core.mcp.reader import Reader
from kevolve_core.model import Candidate, Origin
from kevolve_core.registry import Registry
from kevolve_core.report import environment
from kevolve_core.store import RunStore

__all__ = ["make_server"]

P = ParamSpec("P")
Answer = dict[str, Any]
_PROFILE_STAGES = ("rules", "compile", "small", "confirm", "profile")
_INSTRUCTIONS = """Kevolve checks and times kernels. Start with list_targets and search_knowledge; evaluate a
candidate, or start_run and submit_candidate repeatedly, then finish_run. Times carry their evidence: compare
only numbers of the same evidence on the same device. Verdicts say what to mend."""

Spec = Annotated[
    str,
    Field(description="Path of a YAML or Python specification, the text of a YAML one, or plain words"),
]
Files = Annotated[
    dict[str, str] | None,
    Field(description="Sources by relative path; the entry is a Python module, native files lie beside it"),
]
CandidatePath = Annotated[str, Field(description="File or folder of the candidate, in place of files")]
Entry = Annotated[str, Field(description="The Python module among files; the only one by default")]
Language = Annotated[str, Field(description="triton, cpp, cuda, …; one that the backend takes")]
Backend = Annotated[str, Field(description="Where it runs; the only one that is ready by default")]
DeviceId = Annotated[str, Field(description="A device of the backend; its first by default")]
Run = Annotated[str, Field(description="The run's folder")]


def make_server(
    registry: Registry,
    folders: Sequence[Path] = (),
    *,
    allow_confidential: bool = False,
    executor: str = "local",
) -> MCPServer[None]:
    """The server with its tools; see `kevolve_core.mcp.serve`."""
    tools = _Tools(Reader(registry, folders, allow_confidential=allow_confidential), executor)

    @asynccontextmanager
    async def lifespan(_server: MCPServer[None]) -> AsyncIterator[None]:
        try:
            yield None
        finally:
            await tools.desk.close()

    server: MCPServer[None] = MCPServer(
        "kevolve",
        title="Kevolve",
        instructions=_INSTRUCTIONS,
        version=str(environment(())["versions"].get("kevolve", "")),
        lifespan=lifespan,
        log_level="WARNING",
    )
    for tool in (
        tools.list_targets,
        tools.resolve,
        tools.search_knowledge,
        tools.read_page,
        tools.evaluate,
        tools.profile,
        tools.start_run,
        tools.submit_candidate,
        tools.finish_run,
        tools.read_run,
    ):
        server.add_tool(_saying(tool))
    return server


def _saying(tool: Callable[P, Awaitable[Answer]]) -> Callable[P, Awaitable[Answer]]:
    """The tool with mistakes as messages: what, got, where, mend."""

    @functools.wraps(tool)
    async def work(*args: P.args, **kwargs: P.kwargs) -> Answer:
        try:
            return await tool(*args, **kwargs)
        except KevolveError as error:
            raise ToolError(str(error)) from error

    return work


class _Tools:
    """What agents may call. Docstrings are what they read."""

    def __init__(self, reader: Reader, executor: str) -> None:
        self._reader, self._registry, self._executor = reader, reader.registry, executor
        self.desk = Desk(reader.registry, executor)

    # -- what there is ---------------------------------------------------------------------------------

    async def list_targets(self) -> Answer:
        """Backends and their devices on this machine, with languages and facts, and the targets that the
        knowledge base knows."""
        return await asyncio.to_thread(self._targets)

    def _targets(self) -> Answer:
        backends: list[Answer] = []
        for name in self._registry.names("backend"):
            if self._reader.hidden(name):
                backends.append({"name": name, "withheld": "confidential or not ready"})
                continue
            manifest = self._registry.manifest(name)
            backends.append(
                {
                    "name": name,
                    "description": manifest.description,
                    "languages": list(manifest.languages),
                    "capabilities": sorted(manifest.capabilities),
                    "evidence": manifest.evidence,
                    "devices": [device_brief(device) for device in self._registry.devices(name)],
                }
            )
        return {
            "backends": backends,
            "known_targets": sorted(set(self._reader.base.targets.canonical.values())),
        }

    async def resolve(
        self, request: Annotated[str, Field(description="As in: a C++ kernel for row-wise softmax on NAME")]
    ) -> Answer:
        """What a request in plain words asks for: a specification and a place, or an error that is the one
        question left open."""
        asked = await asyncio.to_thread(self._asked, request, None, None)
        return {
            "understood": asked.request.words(),
            "backend": asked.backend,
            "device": asked.device,
            "language": asked.request.language,
            "spec": spec_brief(asked.spec),
        }

    async def search_knowledge(
        self,
        text: Annotated[str, Field(description="A compiler's message, a profiler's hint, or your words")],
        language: str = "",
        target: Annotated[str, Field(description="Backend, architecture or product")] = "",
        operators: list[str] | None = None,
        bottleneck: Annotated[str, Field(description="memory, compute, latency or balanced")] = "",
        verdict: Annotated[str, Field(description="compile_error, wrong_result, crash, timeout, …")] = "",
        count: Annotated[int, Field(ge=1, le=20)] = 5,
    ) -> Answer:
        """Pages that help with a diagnosis, best first, each with its sources."""
        query = Query(
            text=text,
            language=language,
            target=target,
            operators=tuple(canonical(name) for name in operators or ()),
            bottleneck=bottleneck,
            verdict=verdict,
        )
        hits = await asyncio.to_thread(lambda: self._reader.base.retrieve(query, count))
        pages = [
            {
                "id": hit.page.id,
                "title": hit.page.title,
                "score": hit.score,
                "body": hit.page.body,
                "sources": list(hit.page.sources),
            }
            for hit in hits
        ]
        return {"pages": pages}

    async def read_page(self, page: Annotated[str, Field(description="Its id")]) -> Answer:
        """One page of the knowledge base."""
        found = await asyncio.to_thread(lambda: self._reader.base.page(page))
        return {
            "id": found.id,
            "title": found.title,
            "kind": found.kind,
            "body": found.body,
            "sources": list(found.sources),
        }

    # -- one candidate ---------------------------------------------------------------------------------

    async def evaluate(
        self,
        spec: Spec,
        files: Files = None,
        path: CandidatePath = "",
        entry: Entry = "",
        language: Language = "",
        backend: Backend = "",
        device: DeviceId = "",
        stages: Annotated[list[str] | None, Field(description="Those to run; all by default")] = None,
    ) -> Answer:
        """Compile, check and time one candidate against the reference and the baselines. The verdict says
        what is wrong: compiler log, first wrong index, crash."""
        wanted, where = await asyncio.to_thread(self._wanted, spec, backend, device)
        made = candidate_of(wanted, where, files, path, entry, language)
        return await self._evaluated(wanted, where, made, stages or list(EVALUATE_STAGES))

    async def profile(
        self,
        spec: Spec,
        files: Files = None,
        path: CandidatePath = "",
        entry: Entry = "",
        language: Language = "",
        backend: Backend = "",
        device: DeviceId = "",
    ) -> Answer:
        """Counters, roofline position, bottleneck and hints for one candidate; the verdict where it fails."""
        wanted, where = await asyncio.to_thread(self._wanted, spec, backend, device)
        made = candidate_of(wanted, where, files, path, entry, language)
        answer = await self._evaluated(wanted, where, made, list(_PROFILE_STAGES))
        kept = ("candidate", "accepted", "verdict", "score", "evidence", "profile")
        return {key: answer[key] for key in kept}

    async def _evaluated(
        self, spec: KernelSpec, where: Place, candidate: Candidate, stages: list[str]
    ) -> Answer:
        evaluation = await asyncio.to_thread(
            functools.partial(
                api.evaluate,
                spec,
                candidate,
                backend=where.backend_name,
                device=where.device.id,
                stages=tuple(stages),
                executor=self._executor,
                registry=self._registry,
            )
        )
        return evaluation_brief(evaluation)

    # -- runs ------------------------------------------------------------------------------------------

    async def start_run(
        self,
        spec: Annotated[str, Field(description="As for evaluate; leave it empty with run")] = "",
        run: Annotated[str, Field(description="Folder of an unfinished run to go on with")] = "",
        backend: Backend = "",
        device: DeviceId = "",
        budget: Annotated[
            str, Field(description="1000c (candidates), 1h; time counts while waiting")
        ] = "1000c",
        seed: int = 0,
        out: Annotated[str, Field(description="Folder of the new run; made up by default")] = "",
    ) -> Answer:
        """Begin a run whose candidates you submit with submit_candidate. Returns when baselines are ready."""
        if bool(spec) == bool(run):
            raise ConfigError("a run begins with a spec, or goes on with a run", mend="give one of the two")
        if run:
            await asyncio.to_thread(self._readable, run)
            folder = await self.desk.reopen(Path(run))
            return {"run": str(folder)}
        wanted, where = await asyncio.to_thread(self._wanted, spec, backend, device)
        limits = Budget.parse(budget)
        folder = await self.desk.start(wanted, where, limits, seed, Path(out) if out else None)
        languages = list(where.backend.manifest.languages)
        return {"run": str(folder), "languages": languages, "spec": spec_brief(wanted)}

    async def submit_candidate(
        self,
        run: Run,
        files: Files = None,
        path: CandidatePath = "",
        entry: Entry = "",
        language: Language = "",
        parents: Annotated[list[str] | None, Field(description="Ids of candidates it was made from")] = None,
    ) -> Answer:
        """Add a candidate to a run of start_run and return its evaluation. Several may be submitted at once;
        content that the run knows is answered from it."""
        with RunStore.open_readonly(run) as store:
            self._reader.check_run(store)
            spec, settings = store.spec, store.settings
            known = {name: candidate_ids(store, name) for name in parents or ()}
        strange = [name for name, ids in known.items() if len(ids) != 1]
        if strange:
            raise UnknownNameError("the run has no such candidate", got=strange[0], where=run)
        where = await asyncio.to_thread(
            place, None, settings["backend"], registry=self._registry, device=settings["device"]
        )
        made = candidate_of(spec, where, files, path, entry, language)
        origin = Origin("submitted", "submit", made.origin.notes)
        made = made.with_origin(origin, tuple(ids[0] for ids in known.values()))
        sequence, evaluation = await self.desk.submit(run, made)
        return {"sequence": sequence, **evaluation_brief(evaluation)}

    async def finish_run(self, run: Run) -> Answer:
        """End a run of start_run: its best candidates are raced, confirmed in a fresh process and checked on
        the holdout cases; the report is written."""
        result = await self.desk.finish(run)
        with RunStore.open_readonly(run) as store:
            evaluation = self._reader.shown(store, result.evaluation)
        return {
            "run": run,
            "outcome": result.reason,
            "improved": result.improved,
            "kernel": str(result.report.kernel),
            "report": str(result.report.markdown),
            "evaluation": evaluation_brief(evaluation) if evaluation else None,
        }

    async def read_run(
        self,
        run: Run,
        candidate: Annotated[str, Field(description="Its id or sequence, for sources and evaluation")] = "",
        count: Annotated[int, Field(ge=1, le=100, description="How many of the best to list")] = 10,
    ) -> Answer:
        """A run as it stands: what it computes, how it went and its best candidates; or one candidate."""
        return await asyncio.to_thread(self._read_run, run, candidate, count)

    def _read_run(self, run: str, candidate: str, count: int) -> Answer:
        with RunStore.open_readonly(run) as store:
            self._reader.check_run(store)
            if candidate:
                found = stored_evaluation(store, candidate)
                made = store.candidate(found.evaluation.candidate_id)
                if not self._reader.may_show(made):
                    return {"candidate": {"id": made.id, "withheld": "confidential"}}
                return {
                    "candidate": candidate_brief(made, titles=self._reader.allow),
                    "phase": found.phase,
                    "sequence": found.sequence,
                    "evaluation": evaluation_brief(found.evaluation),
                }
            info, result = store.info(), collect(store)
            best = [
                {"candidate": row.candidate_id, "sequence": row.sequence, "score": row.score}
                for row in store.top(count)
            ]
            evaluation = self._reader.shown(store, result.evaluation)
            profile = evaluation.profile if evaluation else None
            return {
                "run": run,
                "spec": spec_brief(store.spec),
                "settings": {
                    k: store.settings[k] for k in ("backend", "device", "generator", "policy", "seed")
                },
                "status": info.status,
                "phase": info.phase,
                "outcome": result.reason,
                "seconds": result.seconds,
                "evaluations": result.evaluations,
                "verdicts": dict(result.counts),
                "best": best,
                "profile_of_best": profile_brief(profile) if profile is not None else None,
            }

    # -- arguments -------------------------------------------------------------------------------------

    def _asked(self, text: str, backend: str | None, device: str | None) -> Asked:
        """A request, resolved with what the agent may know."""
        shown = [name for name in self._registry.names("backend") if not self._reader.hidden(name)]
        return resolve_request(
            text, self._registry, backend=backend, device=device, base=self._reader.base, backends=shown
        )

    def _readable(self, run: str) -> None:
        with RunStore.open_readonly(run) as store:
            self._reader.check_run(store)

    def _wanted(self, spec: str, backend: str, device: str) -> tuple[KernelSpec, Place]:
        """The specification and the place, which the agent may see results of."""
        name, chosen = backend or None, device or None
        if name is not None:
            self._reader.check_backend(name)
        if "\n" in spec:
            wanted = spec_of_text(spec)
        elif is_request(spec):
            asked = self._asked(spec, name, chosen)
            wanted, name, chosen = asked.spec, asked.backend or name, asked.device or chosen
        else:
            wanted = as_spec(spec)
        where = place(wanted, name, registry=self._registry, device=chosen)
        self._reader.check_backend(where.backend_name)
        return wanted, where

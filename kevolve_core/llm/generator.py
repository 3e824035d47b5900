"""`LlmGenerator`: the universal operator. One operator drafts, repairs, improves or ports, by what the
context holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
from attrs import evolve, frozen

from kevolve_core.errors import ConfigError, EgressError, MalformedReplyError, ProviderError
from kevolve_core.interfaces import Checked, Proposal
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.llm.bandit import choose
from kevolve_core.llm.config import ModelRef, ProviderConfig
from kevolve_core.llm.context import Knowledge, Sibling, Writer, role_of
from kevolve_core.llm.desk import Desk
from kevolve_core.llm.journal import Journal
from kevolve_core.llm.keys import TokenSource
from kevolve_core.llm.ledger import Cost, Ledger
from kevolve_core.llm.model import Message, Provider, Reply, Request
from kevolve_core.llm.parse import Expected, files_of
from kevolve_core.llm.parts import Prompt, allowed, assemble, template
from kevolve_core.llm.past import Past
from kevolve_core.llm.record import pinned_device, pinned_pages
from kevolve_core.llm.settings import LlmSettings
from kevolve_core.model import Candidate, Device, Evaluation, Origin

__all__ = ["LlmGenerator", "Retriever", "Spent"]

#: Kinds of providers that nobody pays for by the token.
_FREE = ("mailbox", "replay")

#: From a proposal, the device, the language, the parent's evaluation and a count to pages, best first.
Retriever = Callable[[Proposal, Device, str, Evaluation | None, int], Sequence[Knowledge]]


@frozen
class Spent:
    """What the generator has consumed since it was made; see `kevolve_core.evolve.Metered`."""

    tokens: int = 0
    money: float = 0.0


@frozen
class _Try:
    """One candidate on its way: what is asked of whom."""

    context: Proposal
    number: int
    role: str
    siblings: Sequence[Sibling]
    pages: Sequence[Knowledge]


class LlmGenerator:
    """Proposes what language models write.

    Deterministic in its journal: the same proposals with the same recorded replies give the same candidates,
    so a search can be replayed exactly, and one that was killed asks nothing twice. See
    `kevolve_core.interfaces` for `CodeGenerator`, `Checked`, `Learner` and `Journaled`.

    Args:
        spec: what to compute.
        device: for what.
        languages: that the target compiles; the first is the default.
        settings: models, mix and what prompts show.
        factory: from a provider's ``kind`` to its registered factory.
        confidential: name of the backend where it is confidential, else "".
        knowledge: finds pages; None for no knowledge base.
        clients: provider's name -> an httpx client of the caller's own, which stays open.
        tokens: provider's name -> a callable that gives its key.
    """

    name = "llm"

    def __init__(
        self,
        spec: KernelSpec,
        device: Device,
        languages: Sequence[str],
        settings: LlmSettings,
        factory: Callable[[str], Callable[..., Provider]],
        *,
        confidential: str = "",
        knowledge: Retriever | None = None,
        clients: Mapping[str, httpx.AsyncClient] | None = None,
        tokens: Mapping[str, TokenSource] | None = None,
    ) -> None:
        self._spec, self._device, self._settings = spec, device, settings
        self._language = _language(settings.language, languages)
        self._taint = frozenset({f"backend:{confidential}"}) if confidential else frozenset[str]()
        self._factory, self._knowledge = factory, knowledge
        self._clients, self._tokens = dict(clients or {}), dict(tokens or {})
        self._mix = settings.mix if settings.mix.all else settings.providers.mix
        if not self._mix.all:
            raise ConfigError(
                "the generator 'llm' has no model",
                mend="name one: --model PROVIDER:MODEL, or [mix] in providers.toml",
            )
        self._writer = Writer(spec, device, self._language, self._taint)
        self._desk: Desk | None = None
        self._run: Path | None = None
        self._past = Past()

    @property
    def device(self) -> Device:
        """What prompts describe: once opened, the device as the run's first sitting saw it."""
        return self._device

    # -- before and after ------------------------------------------------------------------------------

    def check(self) -> None:
        """See that every model is there and its key is taken, without paying. Raises ConfigError or
        ProviderError. Not for providers with a client of the caller's own, which belongs to his loop."""
        for ref in self._mix.all:
            self._factory(self._settings.providers.of(ref).kind)
        if isinstance(self._knowledge, Checked):
            self._knowledge.check()
        asyncio.run(self._check())

    async def _check(self) -> None:
        for ref in self._mix.all:
            config = self._settings.providers.of(ref)
            if ref.provider in self._clients:
                continue
            provider = self._provider(config)
            try:
                await provider.check(ref.model)
            finally:
                await provider.close()

    def open(self, run: Path, *, tokens: int | None = None, money: float | None = None) -> None:
        """Begin a sitting: find what earlier ones asked, and hold the caps. See `Journaled`."""
        if money is not None:
            self._refuse_unpriced()
        journal, self._run = Journal(run), run
        journal.recover()
        self._device = pinned_device(run, self._device)
        self._writer = Writer(self._spec, self._device, self._language, self._taint)
        for call in journal.calls():
            ref = ModelRef(call.request.provider, call.request.model)
            self._past.asked(int(call.about.get("sequence", -1)), call.role, ref, call.key, call.cost)
        ledger = Ledger(tokens=tokens, money=money, spent=journal.spent())
        self._desk = Desk(self._settings.providers, self._provider, journal, ledger)

    async def close(self) -> None:
        """End a sitting: connections are closed."""
        desk, self._desk = self._desk, None
        if desk is not None:
            await desk.close()

    def usage(self) -> Spent:
        """Tokens and money of this sitting's proposals, those found in the journal included."""
        used = self._desk.used if self._desk is not None else Cost()
        return Spent(used.tokens, used.money)

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """Remember what became of a proposal. See `Learner`."""
        self._past.tell(sequence, candidate, evaluation)

    def _provider(self, config: ProviderConfig) -> Provider:
        made: Provider = self._factory(config.kind)(
            config, client=self._clients.get(config.name), token=self._tokens.get(config.name)
        )
        return made

    def _refuse_unpriced(self) -> None:
        for ref in self._mix.all:
            config = self._settings.providers.of(ref)
            if config.kind not in _FREE and not config.model(ref.model).priced:
                raise ConfigError(
                    "a budget of money needs the price of every model",
                    got=str(ref),
                    where=self._settings.providers.file or "--max-money",
                    mend=f'in providers.toml: [providers.{ref.provider}.models."{ref.model}"] price_in = …, '
                    "price_out = … (for a million tokens; 0 for one that is free)",
                )

    # -- proposing -------------------------------------------------------------------------------------

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        """Up to ``n`` candidates.

        Raises:
            MalformedReplyError: the reply holds none, nor does its repair.
            ProviderError, SpendingLimitError, EgressError: nobody can or may be asked.
        """
        role = role_of(context, self._language)
        tries = [
            _Try(context, k, role, self._siblings(context, role), self._pages(context)) for k in range(n)
        ]
        found: dict[str, Candidate] = {}
        for each in tries:
            candidate = await self._candidate(each)
            found.setdefault(candidate.id, candidate)
        return list(found.values())

    async def _candidate(self, asked: _Try) -> Candidate:
        try:
            ref, prompt, asked = self._addressed(asked, 1.0)
            reply, request = await self._ask(ref, prompt, asked, "a")
        except ProviderError as error:
            if error.kind != "context":
                raise
            # The estimate of tokens was too low, or context_tokens too high: once more with half the room.
            ref, prompt, asked = self._addressed(asked, 0.5)
            reply, request = await self._ask(ref, prompt, asked, "b")
        expected = self._expected(asked)
        try:
            files = _read(reply, expected, request.max_output_tokens)
            mended = False
        except MalformedReplyError as problem:
            files = await self._mended(ref, request, reply, problem, asked, expected)
            mended = True
        parents = asked.context.parents if asked.role != "draft" else ()
        notes = {
            "model": str(ref),
            "request": request.key[:16],
            "tokens": self._past.tokens(asked.context.sequence),
            "taint": sorted(prompt.taint),
            "left_out": [f"{left.name} ({left.why})" for left in prompt.left],
            "mended": mended,
            "lane": asked.context.lane,
        }
        return Candidate(
            files=files,
            entry=expected.entry,
            language=self._language,
            symbol="" if self._spec.reference.kind == "module" else self._spec.reference.symbol,
            parents=tuple(p.id for p in parents),
            origin=Origin(self.name, asked.role, notes),
        )

    async def _mended(
        self,
        ref: ModelRef,
        request: Request,
        reply: Reply,
        problem: MalformedReplyError,
        asked: _Try,
        expected: Expected,
    ) -> dict[str, str]:
        """One more turn about a reply that holds no candidate, before it costs an evaluation."""
        for other in self._mix.roles.get("mend", ()):
            if allowed(request.taint, self._settings.providers.of(other).confidential):
                ref = other
                break
        turns = (
            *request.messages,
            Message("assistant", reply.text or "(no text)"),
            Message("user", template("mend", problem=problem.what)),
        )
        config = self._settings.providers.of(ref)
        again = evolve(
            request,
            provider=ref.provider,
            model=ref.model,
            messages=turns,
            nonce=f"{request.nonce}:mend",
            **_body(config, ref),
        )
        about = self._about(asked, ()) | {"mends": request.key, "problem": problem.what}
        second = await self._called(ref, again, "mend", about, asked)
        return _read(second, expected, again.max_output_tokens)

    def _addressed(self, asked: _Try, share: float) -> tuple[ModelRef, Prompt, _Try]:
        """Who is asked, and a prompt he may see: the bandit's choice, else another model of the role. Where
        nobody may see a parent, a draft is asked for instead: it needs none.

        Raises:
            EgressError: no model may see even that.
        """
        refusal: EgressError | None = None
        for each in (asked, evolve(asked, role="draft", siblings=())):
            models = list(self._mix.models(each.role))
            first = self._chosen(models, each)
            for ref in [first, *(m for m in models if m != first)]:
                try:
                    return ref, self._prompt(ref, each, share), each
                except EgressError as error:
                    refusal = refusal or error
        assert refusal is not None
        raise refusal

    def _chosen(self, models: Sequence[ModelRef], asked: _Try) -> ModelRef:
        context = asked.context
        rng = random.Random(f"model:{context.seed}:{context.sequence}:{context.attempt}:{asked.number}")
        priced = all(self._settings.providers.of(ref).model(ref.model).priced for ref in self._mix.all)
        return choose(models, self._past.outcomes(context.told, priced), asked.role, rng)

    def _prompt(self, ref: ModelRef, asked: _Try, share: float) -> Prompt:
        config = self._settings.providers.of(ref)
        model = config.model(ref.model)
        parts = self._writer.parts(asked.context, asked.role, asked.siblings, asked.pages)
        return assemble(
            self._writer.system(),
            parts,
            tokens=int((model.context_tokens - model.max_output_tokens) * share),
            patterns=config.confidential,
            provider=config.name,
        )

    async def _ask(self, ref: ModelRef, prompt: Prompt, asked: _Try, turn: str) -> tuple[Reply, Request]:
        context = asked.context
        request = Request(
            provider=ref.provider,
            model=ref.model,
            messages=prompt.messages,
            nonce=f"{context.seed}:{context.sequence}:{context.attempt}:{asked.number}:{turn}",
            taint=prompt.taint,
            **_body(self._settings.providers.of(ref), ref),
        )
        about = self._about(asked, [f"{left.name} ({left.why})" for left in prompt.left])
        return await self._called(ref, request, asked.role, about, asked), request

    async def _called(
        self, ref: ModelRef, request: Request, role: str, about: Mapping[str, Any], asked: _Try
    ) -> Reply:
        if self._desk is None:
            raise ConfigError(
                "the generator 'llm' was not opened for a run", mend="call open(run) before propose()"
            )
        if not allowed(request.taint, self._settings.providers.of(ref).confidential):
            raise EgressError(
                f"provider '{ref.provider}' may not see what the request derives from",
                got=", ".join(sorted(request.taint)),
            )
        try:
            reply = await self._desk.ask(ref, request, role, about)
        finally:
            cost = self._desk.cost_of(request.key)
            self._past.asked(asked.context.sequence, role, ref, request.key, cost)
        if reply.stop == "refusal":
            raise ProviderError(
                "the model refused", kind="refusal", got=reply.text[:300] or None, where=str(ref)
            )
        return reply

    def _about(self, asked: _Try, left: Sequence[str]) -> dict[str, Any]:
        return {
            "sequence": asked.context.sequence,
            "attempt": asked.context.attempt,
            "operator": asked.context.operator,
            "lane": asked.context.lane,
            "left_out": list(left),
        }

    def _expected(self, asked: _Try) -> Expected:
        reference = self._spec.reference
        symbol = "ModelNew" if reference.kind == "module" else reference.symbol
        base: Mapping[str, str] = {}
        entry, native = self._writer.entry, self._writer.native
        if asked.role in ("repair", "improve"):
            parent = asked.context.parents[0]
            base, entry = parent.files, parent.entry
            others = [n for n in parent.files if n != entry and PurePosixPath(n).suffix != ".py"]
            native = others[0] if others else native
        return Expected(entry, native, symbol, dict(base))

    def _siblings(self, context: Proposal, role: str) -> list[Sibling]:
        if not self._settings.siblings or role == "draft":
            return []
        return self._past.siblings(context.parents[0].id, context.told, self._settings.siblings)

    def _pages(self, context: Proposal) -> list[Knowledge]:
        given = [Knowledge("retrieved", text, taint=self._taint) for text in context.knowledge]
        if self._knowledge is None or not self._settings.pages or context.lane == "cold":
            return given
        evaluation = context.evaluations.get(context.parents[0].id) if context.parents else None
        count, retrieve, run = self._settings.pages, self._knowledge, self._run
        if run is None:
            return given

        def find() -> Sequence[Knowledge]:
            return retrieve(context, self._device, self._language, evaluation, count)[:count]

        return [*given, *pinned_pages(run, f"{context.sequence}-{context.attempt}", find)]


def _language(wanted: str, languages: Sequence[str]) -> str:
    if wanted and wanted not in languages:
        raise ConfigError(
            "the backend does not compile this language",
            got=wanted,
            where="--language",
            mend=f"one of: {', '.join(languages)}",
        )
    return wanted or languages[0]


def _body(config: ProviderConfig, ref: ModelRef) -> dict[str, Any]:
    model = config.model(ref.model)
    return {
        "max_output_tokens": model.max_output_tokens,
        "temperature": model.temperature,
        "extra": model.extra,
    }


def _read(reply: Reply, expected: Expected, limit: int) -> dict[str, str]:
    try:
        return files_of(reply.text, expected, cut=reply.stop == "length")
    except MalformedReplyError as error:
        if reply.stop != "length":
            raise
        raise MalformedReplyError(
            f"it was cut off at its limit of {limit} tokens: write less around the files, or smaller files"
        ) from error

"""Asking models: each request is looked up, reserved, sent, sent again, settled and written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import stamina
from aiolimiter import AsyncLimiter
from attrs import frozen

from kevolve_core.errors import ProviderError, SpendingLimitError
from kevolve_core.llm.config import ModelRef, ProviderConfig, Providers
from kevolve_core.llm.journal import Call, Journal, error_from_plain, error_to_plain
from kevolve_core.llm.ledger import Cost, Ledger
from kevolve_core.llm.model import Provider, Reply, Request

__all__ = ["Desk", "MakeProvider"]

#: From a provider's configuration to the object that speaks to it.
MakeProvider = Callable[[ProviderConfig], Provider]

_MINUTE = 60.0
#: Faults that belong to the request itself: asked again after a kill, it would meet them again.
_LASTING = ("context", "refusal", "request")


class _Lane:
    """One provider with its limits."""

    def __init__(self, config: ProviderConfig, provider: Provider) -> None:
        self.config, self.provider = config, provider
        self._places = asyncio.Semaphore(config.concurrency)
        self._requests = _limiter(config.requests_per_minute)
        self._tokens = _limiter(config.tokens_per_minute)
        self._not_before = 0.0

    async def complete(self, request: Request) -> Reply:
        """One attempt, when the limits allow it."""
        async with self._places:
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                # Of the prompt's bytes about a quarter become tokens (estimated); a reply rarely fills its
                # limit. Both are bounded by what the limiter can ever give.
                tokens = request.input_bound / 4 + request.max_output_tokens / 2
                await self._tokens.acquire(min(tokens, self._tokens.max_rate))
            try:
                return await self.provider.complete(request)
            except ProviderError as error:
                if error.kind == "rate_limit" and error.retry_after:
                    # The server means everybody who uses this key, not this request alone.
                    pause = min(error.retry_after, self.config.timeout_s)
                    self._not_before = max(self._not_before, time.monotonic() + pause)
                raise


def _limiter(per_minute: float | None) -> AsyncLimiter | None:
    return None if per_minute is None else AsyncLimiter(per_minute, _MINUTE)


class Desk:
    """All requests of one sitting.

    Args:
        providers: how to reach the models.
        make: makes a provider; called once for each.
        journal: where calls are found and written down.
        ledger: holds the caps.
    """

    def __init__(self, providers: Providers, make: MakeProvider, journal: Journal, ledger: Ledger) -> None:
        self._providers, self._make = providers, make
        self._journal, self._ledger = journal, ledger
        self._lanes: dict[str, _Lane] = {}
        self.used = Cost()  # by this sitting's proposals, whether paid now or found

    async def ask(self, ref: ModelRef, request: Request, role: str, about: Mapping[str, Any]) -> Reply:
        """The reply to ``request``: the one written down, or a new one, which is written down first.

        Raises:
            ProviderError: no attempt gave a reply, or the model refused.
            SpendingLimitError: it could overrun a cap.
        """
        found = self._journal.find(request.key)
        if found is not None and (found.reply is not None or self._lasting(found)):
            self.used = self.used + found.cost + self._journal.lost(request.key)
            return _answer(found)
        self.used = self.used + self._journal.lost(request.key)
        asked = _Asked(ref, request, role, about, time.monotonic())
        try:
            return _answer(await self._attempts(asked))
        except (ProviderError, SpendingLimitError) as error:
            if self._journal.find(request.key) is None:
                fault = error_to_plain(error)
                self._journal.record(Call(request.key, request, role, None, fault=fault, about=about))
            raise

    def cost_of(self, key: str) -> Cost:
        """What the reply to a request cost: the same in a replay, unlike attempts that gave none."""
        found = self._journal.find(key)
        return found.cost if found is not None else Cost()

    async def close(self) -> None:
        """Close every provider."""
        lanes, self._lanes = list(self._lanes.values()), {}
        for lane in lanes:
            await lane.provider.close()

    def _lasting(self, call: Call) -> bool:
        return (call.fault or {}).get("kind") in _LASTING

    def _lane(self, ref: ModelRef) -> _Lane:
        # Where the model's name is a path (a mailbox), each path is a provider of its own.
        config = self._providers.of(ref)
        name = f"{ref.provider}:{config.path}"
        if name not in self._lanes:
            self._lanes[name] = _Lane(config, self._make(config))
        return self._lanes[name]

    async def _attempts(self, asked: _Asked) -> Call:
        lane = self._lane(asked.ref)
        config = lane.config

        def again(error: Exception) -> bool | float:
            if not isinstance(error, ProviderError) or not error.transient:
                return False
            if error.retry_after is None:
                return True
            return error.retry_after if error.retry_after <= config.timeout_s else False

        async for attempt in stamina.retry_context(
            on=again,
            attempts=config.attempts,
            timeout=None,
            wait_initial=config.backoff_s,
            wait_max=config.backoff_max_s,
            wait_jitter=config.backoff_s,
        ):
            with attempt:
                return await self._attempt(lane, asked)
        raise AssertionError("stamina ends by a return or a raise")

    async def _attempt(self, lane: _Lane, asked: _Asked) -> Call:
        """One attempt, booked whatever becomes of it, and written down before anybody sees the reply."""
        request, model = asked.request, lane.config.model(asked.ref.model)
        most = request.input_bound + request.max_output_tokens
        bound = Cost(most, model.cost(request.input_bound, request.max_output_tokens))
        reservation = await self._ledger.reserve(bound)
        note = self._journal.launch(request.key, bound)
        cost = lost = bound  # cancelled, or ended by what nobody foresaw: it may have been billed
        try:
            reply = await lane.complete(request)
            tokens = reply.input_tokens + reply.output_tokens
            cost, lost = Cost(tokens, model.cost(reply.input_tokens, reply.output_tokens)), Cost()
            seconds = time.monotonic() - asked.start
            call = Call(request.key, request, asked.role, reply, cost, None, asked.about, seconds)
            self._journal.record(call)
            return call
        except ProviderError as error:
            if not error.billed:
                cost = lost = Cost()
            raise
        finally:
            self._ledger.settle(reservation, cost)
            self._journal.land(note, lost)
            self.used = self.used + cost


@frozen
class _Asked:
    """A request on its way."""

    ref: ModelRef
    request: Request
    role: str
    about: Mapping[str, Any]
    start: float


def _answer(call: Call) -> Reply:
    if call.reply is None:
        raise error_from_plain(call.fault or {})
    return call.reply

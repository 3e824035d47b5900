"""A model's server that misbehaves by a script, over real sockets, in three dialects."""

# ruff: noqa: ARG002  every act of the script has the same arguments

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from attrs import Factory, define, frozen


@frozen
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes


@define(slots=False)
class ScriptedServer:
    """Answers requests in turn by ``script``: names of methods ``_do_…``; when it is used up, by ``ok``.

    ``answer`` makes the text of a reply from the request; ``billed`` are the tokens that a real server would
    charge for: every attempt that reached the model, also one whose answer got lost.
    """

    answer: Callable[[Seen], str] = lambda _seen: "hello"
    script: list[str] = Factory(list)
    models: list[str] = Factory(lambda: ["m"])
    keys: list[str] = Factory(list)
    usage: bool = True
    stop: str = "end"
    seen: list[Seen] = Factory(list)
    done: list[str] = Factory(list)
    billed: int = 0
    lock: Any = Factory(threading.Lock)

    def __attrs_post_init__(self) -> None:
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = socket.create_server(("127.0.0.1", 0))
        self._port = listener.getsockname()[1]
        self._loop.run_until_complete(asyncio.start_server(self._client, sock=listener))
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                method, path, _ = lines[0].split(" ")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                if method == "GET":
                    await self._listing(writer, headers)
                    continue
                seen = Seen(path, headers, json.loads(raw), raw)
                with self.lock:
                    self.seen.append(seen)
                    act = self.script.pop(0) if self.script else "ok"
                    self.done.append(act)
                if not await getattr(self, f"_do_{act}")(seen, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, BrokenPipeError):
            return
        finally:
            writer.close()

    # -- answers: True keeps the connection -------------------------------------------------------------

    async def _do_ok(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await self._send_stream(writer, self._events(seen))
        return True

    async def _do_plain(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """Not streamed."""
        await self._send(writer, 200, json.dumps(self._document(seen)))
        return True

    async def _do_cut(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """The stream ends in its middle, as if that were its end."""
        events = self._events(seen)
        await self._send_stream(writer, events[: max(1, len(events) // 2)])
        return True

    async def _do_drop(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """The connection is reset before anything is said."""
        _reset(writer)
        return False

    async def _do_drop_within(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """The connection is reset within the stream."""
        events = self._events(seen)
        writer.write(_head(200, "text/event-stream", chunked=True))
        writer.write(_chunk(events[0]))
        await writer.drain()
        await asyncio.sleep(0.005)
        _reset(writer)
        return False

    async def _do_stall(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """Silence until the client gives up."""
        self._bill(seen, "")
        await asyncio.sleep(30)
        return False

    async def _do_stall_long(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """A long thought, with signs of life, until the client is gone."""
        self._bill(seen, "")
        writer.write(_head(200, "text/event-stream", chunked=True))
        for _ in range(600):
            writer.write(_chunk(": thinking\n\n"))
            await writer.drain()
            await asyncio.sleep(0.05)
        return False

    async def _do_stall_within(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        events = self._events(seen)
        writer.write(_head(200, "text/event-stream", chunked=True) + _chunk(events[0]))
        await writer.drain()
        await asyncio.sleep(30)
        return False

    async def _do_html(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await self._send(writer, 200, "<html><body><h1>Welcome</h1></body></html>", "text/html")
        return True

    async def _do_html_502(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        echo = seen.headers.get("authorization", "")
        await self._send(writer, 502, f"<html>Bad gateway. Request was: {echo}</html>", "text/html")
        return True

    async def _do_busy(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """429 with Retry-After."""
        body = json.dumps({"error": {"message": "slow down", "type": "rate_limit"}})
        await self._send(writer, 429, body, extra="retry-after: 0.01\r\n")
        return True

    async def _do_overloaded(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        body = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
        await self._send(writer, 529, body)
        return True

    async def _do_failed(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await self._send(writer, 500, "")
        return True

    async def _do_garbage(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await self._send_stream(writer, ["data: {not json\n\n"])
        return True

    async def _do_error_within(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        error = (
            'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"later"}}\n\n'
        )
        await self._send_stream(writer, [self._events(seen)[0], error])
        return True

    async def _do_bad_key(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        echo = seen.headers.get("authorization", seen.headers.get("x-api-key", ""))
        body = json.dumps(
            {"error": {"message": f"Incorrect API key provided: {echo}", "code": "invalid_api_key"}}
        )
        await self._send(writer, 401, body)
        return True

    async def _do_no_model(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        message = f"The model `{seen.body['model']}` does not exist"
        await self._send(writer, 404, json.dumps({"error": {"message": message, "code": "model_not_found"}}))
        return True

    async def _do_too_long(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        message = "This model's maximum context length is 8192 tokens"
        body = json.dumps({"error": {"message": message, "code": "context_length_exceeded"}})
        await self._send(writer, 400, body)
        return True

    async def _do_dialect(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """A server that wants ``max_completion_tokens``."""
        if "max_tokens" not in seen.body:
            return await self._do_ok(seen, writer)
        message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        await self._send(
            writer, 400, json.dumps({"error": {"message": message, "code": "unsupported_parameter"}})
        )
        return True

    # -- what a reply looks like ------------------------------------------------------------------------

    def _bill(self, seen: Seen, text: str) -> tuple[int, int]:
        """The tokens of an attempt: a quarter of the bytes each way."""
        tokens = len(seen.raw) // 4 + 1, len(text.encode()) // 4 + 1
        with self.lock:
            self.billed += sum(tokens)
        return tokens

    def _events(self, seen: Seen) -> list[str]:
        text = self.answer(seen)
        tokens = self._bill(seen, text)
        half = len(text) // 2
        pieces = [text[:half], text[half:]]
        if seen.path.endswith("/responses"):
            return _responses(pieces, tokens, self.stop)
        if seen.path.endswith("/messages"):
            return _messages(pieces, tokens, self.stop)
        return _chat(pieces, tokens if self.usage else None, self.stop)

    def _document(self, seen: Seen) -> dict[str, Any]:
        text = self.answer(seen)
        tokens_in, tokens_out = self._bill(seen, text)
        if seen.path.endswith("/responses"):
            content = [{"type": "output_text", "text": text}]
            usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
            return {
                "status": "completed",
                "output": [{"type": "message", "content": content}],
                "usage": usage,
            }
        if seen.path.endswith("/messages"):
            usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
            return {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": usage}
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}}

    async def _listing(self, writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
        key = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
        if self.keys and key not in self.keys:
            await self._send(writer, 401, json.dumps({"error": {"message": f"bad key {key}"}}))
        else:
            await self._send(writer, 200, json.dumps({"data": [{"id": name} for name in self.models]}))

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: str,
        kind: str = "application/json",
        extra: str = "",
    ) -> None:
        data = body.encode()
        writer.write(_head(status, kind, length=len(data), extra=extra) + data)
        await writer.drain()

    async def _send_stream(self, writer: asyncio.StreamWriter, events: list[str]) -> None:
        writer.write(_head(200, "text/event-stream; charset=utf-8", chunked=True))
        for event in events:
            writer.write(_chunk(event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _head(status: int, kind: str, *, length: int = 0, chunked: bool = False, extra: str = "") -> bytes:
    size = "transfer-encoding: chunked" if chunked else f"content-length: {length}"
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{extra}{size}\r\n\r\n".encode()


def _chunk(text: str) -> bytes:
    data = text.encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset instead of an orderly end."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


def _data(value: dict[str, Any], event: str = "") -> str:
    return (f"event: {event}\n" if event else "") + f"data: {json.dumps(value)}\n\n"


def _chat(pieces: list[str], tokens: tuple[int, int] | None, stop: str) -> list[str]:
    base = {"id": "c1", "model": "m-2026"}
    events = [_data({**base, "choices": [{"delta": {"role": "assistant", "content": ""}}]})]
    if stop == "refusal":
        events.append(_data({**base, "choices": [{"delta": {"refusal": "I cannot help with that."}}]}))
    else:
        events += [_data({**base, "choices": [{"delta": {"content": p}}]}) for p in pieces]
    finish = {"end": "stop", "length": "length", "refusal": "stop"}[stop]
    events.append(_data({**base, "choices": [{"delta": {}, "finish_reason": finish}]}))
    if tokens is not None:
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
        events.append(_data({**base, "choices": [], "usage": usage}))
    return [*events, "data: [DONE]\n\n"]


def _responses(pieces: list[str], tokens: tuple[int, int], stop: str) -> list[str]:
    events = [_data({"type": "response.created", "response": {"id": "r1"}}, "response.created")]
    content: dict[str, Any] = {"type": "output_text", "text": "".join(pieces)}
    if stop == "refusal":
        content = {"type": "refusal", "refusal": "I cannot help with that."}
    else:
        events += [_data({"type": "response.output_text.delta", "delta": p}) for p in pieces]
    final: dict[str, Any] = {
        "id": "r1",
        "model": "m-2026",
        "status": "incomplete" if stop == "length" else "completed",
        "output": [{"type": "reasoning", "summary": []}, {"type": "message", "content": [content]}],
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }
    if stop == "length":
        final["incomplete_details"] = {"reason": "max_output_tokens"}
    kind = "response.incomplete" if stop == "length" else "response.completed"
    return [*events, _data({"type": kind, "response": final}, kind)]


def _messages(pieces: list[str], tokens: tuple[int, int], stop: str) -> list[str]:
    start = {"id": "a1", "model": "m-2026", "usage": {"input_tokens": tokens[0], "output_tokens": 1}}
    events = [
        _data({"type": "message_start", "message": start}, "message_start"),
        'event: ping\ndata: {"type": "ping"}\n\n',
    ]
    thought = {"type": "thinking_delta", "thinking": "let me see"}
    events.append(_data({"type": "content_block_delta", "index": 0, "delta": thought}))
    for piece in pieces:
        events.append(
            _data({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": piece}})
        )
    reason = {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"}[stop]
    delta = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": tokens[1]}}
    return [*events, _data(delta, "message_delta"), _data({"type": "message_stop"}, "message_stop")]

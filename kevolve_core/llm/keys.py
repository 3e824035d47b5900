"""Keys of servers: fetched when needed, held in memory only, and cut out of every text that leaves here."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kevolve_core.errors import ConfigError, ProviderError

__all__ = ["Credentials", "TokenSource", "looks_secret"]

#: An embedder's own source of keys: called before every request (a gateway may rotate them).
TokenSource = Callable[[], str | Awaitable[str]]

_COMMAND_SECONDS = 30.0  # a password manager may ask its owner (estimated)
_COMMAND_FRESH_SECONDS = 300.0  # how long a command's answer is used again (estimated)
_LEAST = 6  # shorter values are no keys, and cutting them out would garble texts (estimated)
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)


def looks_secret(header: str) -> bool:
    """A header of this name carries a credential, so its value may not stand in a file."""
    return bool(_SECRET_HEADER.search(header))


class Credentials:
    """The key of one provider and its secret headers, from the environment, a command or a callable.

    Nothing here is ever stored or printed: `repr` shows where a key comes from, `scrub` cuts every value that
    was seen out of a text.

    Args:
        where: of the configuration, for messages.
        key_env: the variable that holds the key.
        key_command: a program and its arguments, which prints the key.
        token: a callable; wins over both.
        headers: header -> value, ``env:VARIABLE`` for one from the environment.
        environ: by default the process's.
    """

    def __init__(
        self,
        *,
        where: str,
        key_env: str = "",
        key_command: tuple[str, ...] = (),
        token: TokenSource | None = None,
        headers: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._where = where
        self._env, self._command, self._token = key_env, key_command, token
        self._headers = dict(headers or {})
        self._environ = os.environ if environ is None else environ
        self._seen: set[str] = set()
        self._fetched: tuple[float, str] | None = None
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        source = "a callable" if self._token else self._env or " ".join(self._command[:1]) or "none"
        return f"Credentials({source})"

    @property
    def wanted(self) -> bool:
        """A key is configured."""
        return bool(self._token or self._env or self._command)

    async def key(self) -> str:
        """The key, or "" where none is configured.

        Raises:
            ProviderError: ``key``: the variable is not set, or the command failed.
        """
        if self._token is not None:
            value = await self._from_callable(self._token)
        elif self._command:
            value = await self._from_command()
        elif self._env:
            value = self._environ.get(self._env, "")
            if not value.strip():
                raise ProviderError(
                    f"the environment variable {self._env} is not set",
                    kind="key",
                    where=self._where,
                    mend=f'export {self._env}=…, or give key_command = ["program", "argument"]',
                )
        else:
            return ""
        return self._noted(self._usable(str(value).strip()))

    def headers(self) -> dict[str, str]:
        """The configured headers with their values. Raises ConfigError for a variable that is not set."""
        found: dict[str, str] = {}
        for name, value in self._headers.items():
            if value.startswith("env:"):
                value = self._environ.get(value[4:], "").strip()
                if not value:
                    raise ConfigError(
                        f"header '{name}' comes from a variable that is not set",
                        got=self._headers[name],
                        where=self._where,
                        mend=f"export {self._headers[name][4:]}=…",
                    )
                self._noted(self._usable(value))
            found[name] = value
        return found

    def forget(self) -> None:
        """The server refused the key: fetch it anew next time."""
        self._fetched = None

    def scrub(self, text: str) -> str:
        """``text`` without any key seen so far."""
        for value in sorted(self._seen, key=len, reverse=True):
            text = text.replace(value, "[key]")
        return text

    def _noted(self, value: str) -> str:
        if len(value) >= _LEAST:
            self._seen.add(value)
        return value

    def _usable(self, value: str) -> str:
        """Raises ProviderError for what no header can carry, without showing it."""
        if not value:
            problem = "it is empty"
        elif not value.isascii() or not value.isprintable() or " " in value:
            problem = "it has characters that no HTTP header can carry"
        else:
            return value
        raise ProviderError(
            "the key is not usable",
            kind="key",
            got=problem,
            where=self._where,
            mend="look where it comes from",
        )

    async def _from_callable(self, token: TokenSource) -> str:
        try:
            answer = token()
            return await answer if inspect.isawaitable(answer) else answer
        except ProviderError:
            raise
        except Exception as error:  # the embedder's own code; its words may hold a token
            raise ProviderError(
                "the callable that gives the key failed",
                kind="key",
                got=type(error).__name__,
                where=self._where,
                mend="see the exception that it raised; nothing was sent",
            ) from error

    async def _from_command(self) -> str:
        async with self._lock:
            now = time.monotonic()
            if self._fetched is not None and now - self._fetched[0] < _COMMAND_FRESH_SECONDS:
                return self._fetched[1]
            value = await self._run()
            self._fetched = (now, value)
            return value

    async def _run(self) -> str:
        def failed(got: Any) -> ProviderError:
            # What it printed may hold a key, so it is not shown.
            return ProviderError(
                "the command that prints the key failed",
                kind="key",
                got=got,
                where=f"{self._where}: {self._command[0]}",
                mend="run it by hand; it must print the key and nothing else",
            )

        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise failed(error.strerror or type(error).__name__) from error
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                printed, _ = await process.communicate()
        except TimeoutError as error:
            raise failed(f"no answer within {_COMMAND_SECONDS:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise failed(f"exit code {process.returncode}")
        return printed.decode(errors="replace").strip()

"""A model that is a person or any coding agent: a prompt is a file, and so is its answer.

For each request ``NAME.prompt.md`` appears in the folder; ``NAME.reply.md`` is awaited. Write the answer
under another name and rename it, or simply write it: a file counts once it has not changed for a moment. What
was answered while nobody waited is found when the request is made again.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from kevolve_core.errors import ProviderError
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.model import Reply, Request

__all__ = ["MailboxProvider"]

_POLL_S = 0.1  # estimated
_SETTLED_S = 0.3  # a file that has not grown for so long is whole (estimated)


class MailboxProvider:
    """See `kevolve_core.llm.Provider`. The folder is ``config.path``; there is no time limit but the
    configured ``timeout_s``, and the tokens are counted as a quarter of the bytes (estimated)."""

    def __init__(self, config: ProviderConfig, *, client: Any = None, token: Any = None) -> None:
        del client, token
        self._config = config
        self._folder = Path(config.path)

    async def complete(self, request: Request) -> Reply:
        name = f"{request.nonce.replace(':', '-') or 'request'}-{request.key[:12]}"
        prompt, answer = (self._folder / f"{name}.{kind}.md" for kind in ("prompt", "reply"))
        text = "\n\n".join(f"<!-- {m.role} -->\n\n{m.content}" for m in request.messages)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not answer.exists():
                _write(prompt, text)
            replied = await self._answered(answer)
        except OSError as error:
            raise ProviderError(
                "the mailbox cannot be used",
                kind="request",
                got=error.strerror,
                where=str(self._folder),
                mend="name a folder that can be written: mailbox:FOLDER",
            ) from error
        return Reply(
            replied,
            input_tokens=len(text.encode()) // 4,
            output_tokens=len(replied.encode()) // 4,
            counted=False,
            model=request.model,
            request_id=name,
        )

    async def _answered(self, answer: Path) -> str:
        deadline = time.monotonic() + self._config.timeout_s
        while True:
            try:
                state = answer.stat()
                if state.st_size and time.time() - state.st_mtime >= _SETTLED_S:
                    return answer.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                pass
            if time.monotonic() > deadline:
                raise ProviderError(
                    f"nobody answered within {self._config.timeout_s:g} s",
                    kind="timeout",
                    where=str(answer),
                    mend="write the answer there, then resume; or raise the mailbox's timeout_s",
                )
            await asyncio.sleep(_POLL_S)

    async def check(self, model: str) -> None:
        del model

    async def close(self) -> None:
        """There is no connection."""


def _write(path: Path, text: str) -> None:
    """Visible whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

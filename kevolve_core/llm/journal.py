"""Every request and reply of a run on disk, addressed by content, written before it is used.

In a run's folder: texts of messages and replies are blobs beside the run's other blobs; ``llm/calls`` has one
small file a request, named by its key; ``llm/flying`` one an attempt under way, with the most it may cost.
What a kill leaves there is a request whose cost nobody knows: it counts at its upper bound, so caps hold over
all sittings.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen

from kevolve_core.errors import KevolveError, ProviderError, SpendingLimitError, StoreError
from kevolve_core.llm.ledger import Cost
from kevolve_core.llm.model import Reply, Request
from kevolve_core.model import freeze
from kevolve_core.store import BlobStore, FsspecBlobs
from kevolve_core.store.faults import damaged, guarded

__all__ = ["Call", "Journal", "error_from_plain", "error_to_plain"]

_CALLS, _FLYING, _DRAFT = "calls", "flying", ".tmp"


@frozen
class Call:
    """One request with what came of it: a reply, or the fault that ended it.

    Args:
        key: the request's name.
        request: with its messages.
        role: what the model was asked as.
        reply: None where there is a fault.
        cost: of the attempt that answered.
        fault: of the last attempt, as `error_to_plain` writes it.
        about: what else is worth knowing (proposal, parts left out or withheld).
        seconds: from the first attempt to the reply.
    """

    key: str
    request: Request
    role: str
    reply: Reply | None
    cost: Cost = field(factory=Cost)
    fault: Mapping[str, Any] | None = field(default=None, hash=False)
    about: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    seconds: float = 0.0


class Journal:
    """The calls of one run.

    Args:
        folder: the run's.
        blobs: where texts lie; by default the run's own blobs.
    """

    def __init__(self, folder: Path, blobs: BlobStore | None = None) -> None:
        self._folder = folder / "llm"
        self._blobs = blobs or FsspecBlobs(str(folder / "blobs"))

    def recover(self) -> None:
        """Take over calls that a kill caught before they were renamed; drop those it caught in writing."""
        for draft in (self._folder / _CALLS).glob(f"??/.*{_DRAFT}"):
            file = draft.with_name(draft.name[1 : -len(_DRAFT)])
            with guarded(str(draft)):
                try:
                    json.loads(draft.read_text(encoding="utf-8"))
                except ValueError:
                    draft.unlink()
                else:
                    os.replace(draft, file)

    def find(self, key: str) -> Call | None:
        """The call of that request, None where there is none."""
        file = self._file(key)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise damaged("a stored call cannot be read", str(file), error) from error
        return self._decoded(text, str(file))

    def record(self, call: Call) -> None:
        """Durable against ``kill -9`` and visible whole when it returns."""
        request, reply = call.request, call.reply
        document = {
            "key": call.key,
            "role": call.role,
            "request": {
                "provider": request.provider,
                "model": request.model,
                "max_output_tokens": request.max_output_tokens,
                "temperature": request.temperature,
                "extra": dict(request.extra),
                "nonce": request.nonce,
                "taint": sorted(request.taint),
                "messages": [[m.role, self._blobs.put(_bytes(m.content))] for m in request.messages],
            },
            "reply": None
            if reply is None
            else {**asdict(reply), "text": self._blobs.put(_bytes(reply.text))},
            "cost": asdict(call.cost),
            "fault": None if call.fault is None else dict(call.fault),
            "about": dict(call.about),
            "seconds": round(call.seconds, 3),
        }
        self._write(self._file(call.key), json.dumps(document, indent=1, sort_keys=True))

    def launch(self, key: str, bound: Cost) -> Path:
        """Note that an attempt is about to be sent. Returns what `land` takes."""
        file = self._folder / _FLYING / f"{key}.{uuid.uuid4().hex[:12]}.json"
        # Not synced: it need not outlive the machine, only this process.
        self._write(file, json.dumps(asdict(bound)), sync=False)
        return file

    def land(self, note: Path, lost: Cost) -> None:
        """The attempt ended. ``lost`` is what it may have cost without giving a reply: the note stays."""
        with guarded(str(note)):
            if lost == Cost():
                note.unlink(missing_ok=True)

    def lost(self, key: str) -> Cost:
        """Upper bound of what attempts at one request cost without giving a reply."""
        return self._sum(f"{key}.*.json")

    def spent(self) -> Cost:
        """All that the run cost so far, at most."""
        return sum((call.cost for call in self.calls()), self._sum("*.json"))

    def calls(self) -> Iterator[Call]:
        """Every call, in the order of its key."""
        for file in sorted((self._folder / _CALLS).glob("??/*.json")):
            found = self.find(file.stem)
            if found is not None:
                yield found

    def _sum(self, pattern: str) -> Cost:
        total = Cost()
        for file in (self._folder / _FLYING).glob(pattern):
            try:
                total = total + Cost(**json.loads(file.read_text()))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError) as error:
                raise damaged("a note of a request cannot be read", str(file), error) from error
        return total

    def _file(self, key: str) -> Path:
        if len(key) != 64 or not key.isalnum():
            raise StoreError("not the name of a stored call", got=key, where=str(self._folder))
        return self._folder / _CALLS / key[:2] / f"{key}.json"

    def _write(self, file: Path, text: str, *, sync: bool = True) -> None:
        temporary = file.with_name(f".{file.name}{_DRAFT}")
        with guarded(str(file)):
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as out:
                out.write(text)
                if sync:
                    out.flush()
                    os.fsync(out.fileno())
            os.replace(temporary, file)

    def _decoded(self, text: str, where: str) -> Call:
        from kevolve_core.llm.model import Message

        try:
            document = json.loads(text)
            request = dict(document["request"])
            messages = tuple(Message(r, self._blobs.get(d).decode()) for r, d in request.pop("messages"))
            taint = frozenset(request.pop("taint"))
            plain = document["reply"]
            reply = (
                None if plain is None else Reply(**{**plain, "text": self._blobs.get(plain["text"]).decode()})
            )
            return Call(
                key=document["key"],
                request=Request(messages=messages, taint=taint, **request),
                role=document["role"],
                reply=reply,
                cost=Cost(**document["cost"]),
                fault=document["fault"],
                about=document["about"],
                seconds=document["seconds"],
            )
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged("a stored call cannot be read", where, error) from error


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


def error_to_plain(error: KevolveError) -> dict[str, Any]:
    """JSON values from which `error_from_plain` makes an equal error."""
    plain: dict[str, Any] = {
        "type": type(error).__name__,
        "what": error.what,
        "got": None if error.got is None else str(error.got),
        "where": error.where,
        "mend": error.mend,
    }
    if isinstance(error, ProviderError):
        plain["kind"] = error.kind
    if isinstance(error, SpendingLimitError):
        plain["limit"] = error.limit
    return plain


def error_from_plain(plain: Mapping[str, Any]) -> KevolveError:
    """The error that a call ended with."""
    parts: dict[str, Any] = {name: plain.get(name) for name in ("got", "where", "mend")}
    if plain.get("type") == "SpendingLimitError":
        return SpendingLimitError(str(plain["what"]), limit=str(plain.get("limit", "tokens")), **parts)
    return ProviderError(str(plain.get("what", "")), kind=str(plain.get("kind", "server")), **parts)

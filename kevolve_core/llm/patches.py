"""Unified diffs in replies: each hunk read as an edit, since models miscount its line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

__all__ = ["hunks", "is_diff"]

_TO = re.compile(r"^\+\+\+ (?:b/)?(?P<name>[^\t\n]+)")


def is_diff(info: str, text: str) -> bool:
    """A fenced block is a diff: it says so, or it has hunks between lines of a diff only."""
    if info.partition(" ")[0].lower() in ("diff", "patch", "udiff"):
        return True
    lines = [line for line in text.split("\n") if line]
    return any(line.startswith("@@") for line in lines) and all(
        line[0] in " +-@\\" or line.startswith(("diff ", "index ")) for line in lines
    )


def hunks(text: str) -> Iterator[tuple[str, str, str]]:
    """(file's name or "", lines that go, lines that come) of each hunk, context among both. Line numbers are
    not read: the lines themselves have to say where they belong."""
    name = ""
    old: list[str] = []
    new: list[str] = []
    lines = text.split("\n")
    for n, line in enumerate(lines):
        after = lines[n + 1] if n + 1 < len(lines) else ""
        to = _TO.match(line) if n and lines[n - 1].startswith("--- ") else None
        head = line.startswith("--- ") and _TO.match(after)
        if to or head or line.startswith(("@@", "diff --git ", "index ")):
            yield from _hunk(name, old, new)
            old, new = [], []
            name = to["name"].strip() if to else name
        elif line.startswith("+"):
            new.append(line[1:])
        elif line.startswith("-"):
            old.append(line[1:])
        elif not line.startswith("\\"):  # "\ No newline at end of file"
            kept = line[1:] if line.startswith(" ") else line  # some leave out the blank of an empty line
            old.append(kept)
            new.append(kept)
    yield from _hunk(name, old, new)


def _hunk(name: str, old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """A hunk that changes something, without the empty lines around it."""
    before, after = list(old), list(new)
    for end in (0, -1):
        while before and after and not before[end].strip() and not after[end].strip():
            del before[end], after[end]
    if before != after:
        yield name, "\n".join(before), "\n".join(after)

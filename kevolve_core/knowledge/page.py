"""`Page`: one document of the knowledge base, a Markdown file with YAML front matter.

---
title: Masks of partial tiles
languages: [triton]
bottlenecks: [memory]
sources: ["Triton documentation, triton.language.load"]
---
Text …
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from attrs import evolve, field, frozen

from kevolve_core.errors import KnowledgeError, SpecError, suggest
from kevolve_core.model import VerdictKind, freeze
from kevolve_core.spec.checks import read_yaml

__all__ = ["BOTTLENECKS", "KINDS", "STATUSES", "Page", "dump_page", "parse_page", "read_page"]

#: Kinds of pages, which are also the folders of a knowledge tree.
KINDS = ("constraints", "guidance", "hardware", "languages", "skills")

#: What a page may say it helps with; those of `kevolve_core.model.Profile`.
BOTTLENECKS = ("memory", "compute", "latency", "balanced")

#: A page is read only when it is ``accepted``; the others are skills under review, or turned down.
STATUSES = ("accepted", "proposed", "rejected")

_VERDICTS = tuple(kind.value for kind in VerdictKind)
_FENCE = "---"
_TAINT = "taint"  # among a page's data
_LISTS = {
    "targets": "target", "languages": "language", "operators": "operator", "bottlenecks": "bottleneck",
    "verdicts": "verdict", "sources": "source", "aliases": "alias", "within": "", "symptoms": "symptom",
}  # fmt: skip
_ID = re.compile(r"\w[\w.+\-]*(/\w[\w.+\-]*)*")
_SINGULAR = {short: key for key, short in _LISTS.items() if short}
_KEYS = ("id", "title", "kind", *_LISTS, "confidential", "status", "data")


@frozen
class Page:
    """One document.

    Args:
        id: its name in the base: its path in its folder without the suffix (``languages/triton/masks``).
        title: one line.
        kind: one of `KINDS`.
        body: Markdown.
        targets: architectures or backends it is about; none: all.
        languages: candidate languages it is about; none: all.
        operators: operators it is about (``softmax``, ``matmul``, …); none: any.
        bottlenecks: diagnoses it helps with, of `BOTTLENECKS`.
        sources: where its claims come from.
        confidential: neither it nor what derives from it may reach a reader not allowed to see it.
        path: its file, None for a page made in memory.
        verdicts: failures it helps with (``compile_error``, …).
        aliases: of a target's own page: other names of its first target (``sm_90a``, ``h100``).
        within: of a target's own page: wider targets whose pages hold for it too.
        symptoms: how a compiler, a profiler or a person says the problem.
        status: one of `STATUSES`.
        data: of a skill: what it was distilled from (JSON values).
    """

    id: str
    title: str
    kind: str
    body: str
    targets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    bottlenecks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    confidential: bool = False
    path: Path | None = field(default=None, eq=False)
    verdicts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()
    status: str = "accepted"
    data: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)

    @property
    def taint(self) -> frozenset[str]:
        """Confidential sources that it derives from, itself included; none for a page that all may see."""
        noted = self.data.get(_TAINT, ())
        more = noted if isinstance(noted, (list, tuple)) else ()
        return frozenset({f"page:{self.id}", *map(str, more)}) if self.confidential else frozenset()

    def tainted(self, *sources: str) -> Page:
        """The same page, confidential, and derived from ``sources`` (``backend:NAME``, ``page:ID``) too."""
        known = self.taint - {f"page:{self.id}"}
        if self.confidential and known.issuperset(sources):
            return self
        noted = {_TAINT: sorted(known.union(sources))} if sources else {}
        return evolve(self, confidential=True, data={**self.data, **noted})


def read_page(file: Path, root: Path) -> Page:
    """The page in ``file``, which lies in the knowledge folder ``root``.

    Raises:
        KnowledgeError: it cannot be read, or as `parse_page`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KnowledgeError("a knowledge page cannot be read", got=str(error), where=str(file)) from error
    name = file.relative_to(root).with_suffix("").as_posix()
    return evolve(parse_page(text, name, where=str(file)), path=file)


def parse_page(text: str, name: str, *, where: str = "") -> Page:
    """The page that ``text`` is.

    Args:
        text: front matter and Markdown.
        name: its id where the front matter gives none; its folders give kind, target and language.
        where: the file, for messages.

    Raises:
        KnowledgeError: no front matter, an unknown key, or a value that is none of those allowed.
    """
    where = where or name
    head, body = _split(text, where)
    unknown = [key for key in head if key not in _KEYS and key not in _SINGULAR]
    if unknown:
        raise KnowledgeError(
            f"the front matter has an unknown key '{unknown[0]}'",
            where=where,
            mend=suggest(unknown[0], _KEYS) or f"keys are: {', '.join(_KEYS)}",
        )
    lists = {key: _words(head, key, where) for key in _LISTS}
    name = str(head.get("id") or name)
    if not _ID.fullmatch(name) or ".." in name:
        raise KnowledgeError(
            "a page's id is not usable", got=name, where=where, mend="letters, digits, -, _ and . between /"
        )
    folders = name.split("/")[:-1]
    kind = _one_of(head, "kind", KINDS, folders[0] if folders and folders[0] in KINDS else "guidance", where)
    if len(folders) > 1 and kind == "hardware":
        lists["targets"] = lists["targets"] or (folders[1],)
    if len(folders) > 1 and kind == "languages":
        lists["languages"] = lists["languages"] or (folders[1],)
    for key, allowed in (("bottlenecks", BOTTLENECKS), ("verdicts", _VERDICTS)):
        for value in lists[key]:
            if value not in allowed:
                raise KnowledgeError(
                    f"'{value}' is none of the {key}",
                    where=f"{where}: {key}",
                    mend=suggest(value, allowed) or f"one of: {', '.join(allowed)}",
                )
    title = head.get("title") or _heading(body)
    if not title or not isinstance(title, str):
        raise KnowledgeError(
            "a knowledge page has no title", where=where, mend="write `title: …` at its head"
        )
    for key, wanted in (("confidential", bool), ("data", dict)):
        if key in head and not isinstance(head[key], wanted):
            mend = "write true or false" if wanted is bool else "write a mapping"
            raise KnowledgeError(f"'{key}' is not understood", got=head[key], where=where, mend=mend)
    try:
        json.dumps(head.get("data"))
    except (TypeError, ValueError) as error:  # YAML knows dates and the like
        raise KnowledgeError(
            "'data' holds what JSON cannot say",
            got=error,
            where=where,
            mend="put dates and the like in quotes",
        ) from error
    return Page(
        id=name,
        title=" ".join(title.split()),
        kind=kind,
        body=body,
        confidential=head.get("confidential", False),
        status=_one_of(head, "status", STATUSES, "accepted", where),
        data=head.get("data", {}),
        targets=lists["targets"],
        languages=lists["languages"],
        operators=lists["operators"],
        bottlenecks=lists["bottlenecks"],
        verdicts=lists["verdicts"],
        sources=lists["sources"],
        aliases=lists["aliases"],
        within=lists["within"],
        symptoms=lists["symptoms"],
    )


def dump_page(page: Page) -> str:
    """The text of a page, which `parse_page` reads back."""
    head: dict[str, Any] = {"title": page.title, "kind": page.kind}
    head |= {key: list(getattr(page, key)) for key in _LISTS if getattr(page, key)}
    if page.status != "accepted":
        head["status"] = page.status
    if page.confidential:
        head["confidential"] = True
    if page.data:
        head["data"] = json.loads(json.dumps(dict(page.data), default=dict))  # YAML knows plain types only
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110)
    return f"{_FENCE}\n{front}{_FENCE}\n\n{page.body.strip()}\n"


def _split(text: str, where: str) -> tuple[dict[str, Any], str]:
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in [line.strip() for line in lines[1:]]:
        raise KnowledgeError(
            "a knowledge page has no front matter",
            where=where,
            mend="begin it with a line `---`, then `title: …` and `sources: […]`, then a line `---`",
        )
    end = next(n for n, line in enumerate(lines) if n and line.strip() == _FENCE)
    try:
        head = read_yaml("\n".join(lines[1:end]) or "{}", where)
    except SpecError as error:
        raise KnowledgeError(
            "the front matter is not YAML", got=error.got or error.what, where=error.where, mend=error.mend
        ) from error
    if not isinstance(head, Mapping):
        raise KnowledgeError(
            "the front matter is not a mapping of keys", got=type(head).__name__, where=where
        )
    return dict(head), "\n".join(lines[end + 1 :]).strip()


def _words(head: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of texts under its plural or singular key; one text is a list of one."""
    given = [head[name] for name in (key, _LISTS[key]) if name in head]
    if not given or given[0] is None:
        return ()
    values = given[0] if isinstance(given[0], list) else [given[0]]
    if len(given) > 1 or not all(isinstance(value, (str, int, float)) for value in values):
        raise KnowledgeError(
            f"'{key}' is not a list of texts", got=given, where=where, mend=f"write {key}: [one, another]"
        )
    texts = [" ".join(str(value).split()) for value in values]
    names = key not in {"sources", "symptoms"}
    return tuple(dict.fromkeys(t.lower() if names else t for t in texts if t))


def _one_of(head: Mapping[str, Any], key: str, allowed: tuple[str, ...], default: str, where: str) -> str:
    value = head.get(key, default)
    if value not in allowed:
        raise KnowledgeError(
            f"'{key}' is not one of those there are",
            got=value,
            where=where,
            mend=suggest(str(value), allowed) or f"one of: {', '.join(allowed)}",
        )
    return str(value)


def _heading(body: str) -> str:
    first = body.splitlines()[0] if body else ""
    return first.removeprefix("#").strip() if first.startswith("# ") else ""

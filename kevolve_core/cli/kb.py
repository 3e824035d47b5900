"""`kevolve kb`: the knowledge base: its pages, and the skills that runs have taught."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import click
from attrs import evolve

from kevolve_core.cli.options import out, plugins_option, registry_of
from kevolve_core.cli.render import grid, say
from kevolve_core.errors import KevolveError, KnowledgeError, UnknownNameError, suggest
from kevolve_core.knowledge import Folder, KnowledgeBase, Page, Query, user_folders
from kevolve_core.knowledge.base import marked
from kevolve_core.knowledge.experience.book import SkillBook, write_page
from kevolve_core.knowledge.experience.distill import Learned, distill
from kevolve_core.knowledge.experience.memory import Memory
from kevolve_core.knowledge.folders import ready_base
from kevolve_core.knowledge.lint import lint as lint_pages
from kevolve_core.knowledge.operators import canonical
from kevolve_core.knowledge.page import BOTTLENECKS, KINDS, read_page
from kevolve_core.model import Device, VerdictKind
from kevolve_core.registry import Registry
from kevolve_core.store import RunStore

__all__ = ["kb", "open_base"]

F = TypeVar("F", bound=Callable[..., object])
_COMPLAINTS = 1


def _folders_option(function: F) -> F:
    return click.option(
        "--knowledge",
        "folders",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="DIR",
        help="A folder of pages beside your own; may be given several times.",
    )(function)


def open_base(registry: Registry, folders: Sequence[Path] = ()) -> KnowledgeBase:
    """All there is to the command line: shipped pages, those of ready backends, the user's own, ``folders``.
    Says on stderr what is left out."""
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise KnowledgeError("there is no such knowledge folder", got=str(missing[0]))
    base = ready_base(registry, folders)
    for fault in base.faults:
        click.echo(f"left out: {fault.where or ''} {fault.what}".replace("  ", " "), err=True)
    return base


@click.group()
def kb() -> None:
    """Search and extend the knowledge base.

    Pages are Markdown files with front matter. Your own lie in the folders that KEVOLVE_KNOWLEDGE lists, else
    in ~/.local/share/kevolve/knowledge.
    """


@kb.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="Only pages of this kind.")
@click.option("--target", default="", metavar="NAME", help="Only pages that hold for this target.")
@_folders_option
@plugins_option
def list_(kind: str | None, target: str, folders: tuple[Path, ...], plugins_file: Path | None) -> None:
    """Every page, by id."""
    base = open_base(registry_of(plugins_file), folders)
    holds = base.targets.closure(target)
    rows = [
        (page.id, page.title, _marks(page))
        for page in base.pages
        if (kind is None or page.kind == kind)
        and (not target or not page.targets or not holds.isdisjoint(page.targets))
    ]
    out().print(grid(rows, header=("id", "title", "")))


@kb.command()
@click.argument("page", metavar="ID")
@_folders_option
@plugins_option
def show(page: str, folders: tuple[Path, ...], plugins_file: Path | None) -> None:
    """Print one page with its sources."""
    found = open_base(registry_of(plugins_file), folders).page(page)
    console = out()
    say(console, found.title, "bold")
    about = {
        "kind": found.kind,
        "targets": ", ".join(found.targets),
        "languages": ", ".join(found.languages),
        "operators": ", ".join(found.operators),
        "helps with": ", ".join((*found.bottlenecks, *found.verdicts)),
        "marks": _marks(found),
        "file": str(found.path or ""),
    }
    console.print(grid((name, text) for name, text in about.items() if text))
    say(console)
    say(console, found.body)
    say(console, "\nSources:")
    for source in found.sources:
        say(console, f"- {source}")


@kb.command()
@click.argument("text", nargs=-1, required=True)
@click.option("--language", default="", metavar="NAME", help="Of the candidate: triton, cpp, cuda, …")
@click.option("--target", default="", metavar="NAME", help="Backend, architecture or product.")
@click.option("--operator", "operators", multiple=True, metavar="NAME", help="What is computed.")
@click.option("--bottleneck", type=click.Choice(BOTTLENECKS), default=None, help="What a profile says.")
@click.option(
    "--verdict", type=click.Choice([kind.value for kind in VerdictKind]), default=None, help="How it failed."
)
@click.option("-k", "count", type=click.IntRange(1), default=5, show_default=True, help="How many pages.")
@click.option("--json", "as_json", is_flag=True, help="Print ids, scores and text as JSON.")
@_folders_option
@plugins_option
def search(
    text: tuple[str, ...],
    language: str,
    target: str,
    operators: tuple[str, ...],
    bottleneck: str | None,
    verdict: str | None,
    count: int,
    as_json: bool,
    folders: tuple[Path, ...],
    plugins_file: Path | None,
) -> None:
    """The pages that help with TEXT: a compiler's message, a profiler's hint, your own words."""
    base = open_base(registry_of(plugins_file), folders)
    if target and not set(base.targets.canonical.values()) & base.targets.closure(target):
        known = sorted(set(base.targets.canonical.values()))
        raise UnknownNameError(
            "no page knows this target",
            got=target,
            mend=suggest(target, [*known, *base.targets.canonical]) or f"one of: {', '.join(known)}",
        )
    query = Query(
        text=" ".join(text),
        language=language,
        target=target,
        operators=tuple(canonical(name) for name in operators),
        bottleneck=bottleneck or "",
        verdict=verdict or "",
    )
    hits = base.retrieve(query, count)
    if as_json:
        rows = [
            {"id": h.page.id, "title": h.page.title, "score": h.score, "why": h.why, "body": h.page.body}
            for h in hits
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    console = out()
    if not hits:
        say(console, "no page has a word of this in common", "yellow")
        return
    rows_ = [(hit.page.id, hit.page.title, f"{hit.score:.2f}", ", ".join(hit.why)) for hit in hits]
    console.print(grid(rows_, header=("id", "title", "score", "agrees in")))
    say(console, f"\nkevolve kb show {hits[0].page.id}", "dim")


@kb.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR]...")
@plugins_option
def lint(folders: tuple[Path, ...], plugins_file: Path | None) -> int:
    """Check pages: all of them, or those in DIR. Exit code 1 when something is wrong."""
    registry = registry_of(plugins_file)
    if folders:
        base = KnowledgeBase.open([*map(Folder, folders)], shipped=True)
        roots = [folder.absolute() for folder in folders]
        own = [p for p in base.pages if p.path and any(p.path.absolute().is_relative_to(r) for r in roots)]
    else:
        base = open_base(registry)
        own = list(base.pages)
    complaints = lint_pages(base, own)
    console = out()
    for complaint in complaints:
        say(console, str(complaint), "yellow")
    say(console, f"{len(own)} pages, {len(complaints)} complaints", "bold")
    return _COMPLAINTS if complaints else 0


@kb.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--force", is_flag=True, help="Replace pages of yours that have the same id.")
def add(paths: tuple[Path, ...], force: bool) -> None:
    """Copy pages (files, or folders of them) into your own folder, after a check."""
    folder = user_folders()[0]
    offered: list[Page] = []
    for path in paths:
        if path.is_dir():
            offered += KnowledgeBase.open([path], shipped=False, strict=True).pages
        else:
            offered.append(_single(path))
    base = KnowledgeBase(offered)
    complaints = lint_pages(base, offered)
    for page in offered:
        if (folder / f"{page.id}.md").exists() and not force:
            raise KnowledgeError(
                "there is a page of this id already",
                got=page.id,
                where=str(folder),
                mend="--force replaces it",
            )
    for page in offered:
        say(out(), f"added {page.id}: {write_page(page, folder)}")
    for complaint in complaints:
        say(out(), f"  {complaint}", "yellow")


def _single(path: Path) -> Page:
    """A page by itself belongs where its folders say, as far as they are those of a knowledge tree."""
    parts = path.absolute().parts
    at = next((n for n, part in enumerate(parts[:-1]) if part in KINDS), len(parts) - 1)
    page = read_page(path.absolute(), Path(*parts[:at]))
    page = page.tainted() if marked(path) else page
    return page if "/" in page.id else evolve(page, id=f"{page.kind}/{page.id}")


@kb.command()
@_folders_option
@plugins_option
def stats(folders: tuple[Path, ...], plugins_file: Path | None) -> None:
    """How many pages there are, by kind, target and language."""
    base = open_base(registry_of(plugins_file), folders)
    pages = base.pages
    console = out()
    rows = [
        ("pages", str(len(pages))),
        ("words", str(sum(len(page.body.split()) for page in pages))),
        ("by kind", _counted(page.kind for page in pages)),
        ("by target", _counted(t for page in pages for t in page.targets or ("any",))),
        ("by language", _counted(t for page in pages for t in page.languages or ("any",))),
        ("confidential", str(sum(page.confidential for page in pages))),
        ("skills", _counted(page.status for page in pages if page.kind == "skills") or "none"),
        ("warm starts", str(len(Memory.of(base)))),
        ("your folders", ", ".join(map(str, user_folders()))),
    ]
    console.print(grid(rows))


@kb.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--accept", is_flag=True, help="Use them at once, without a review.")
@plugins_option
def learn(runs: tuple[Path, ...], accept: bool, plugins_file: Path | None) -> None:
    """Distil skills from runs: what won, what helped, which fix cured which failure.

    They lie under review (`kevolve kb skills list`) until they are accepted.
    """
    registry = registry_of(plugins_file)
    book = SkillBook(user_folders()[0])
    base = open_base(registry)
    console = out()
    for run in runs:
        with RunStore.open_readonly(run) as store:
            pages = distill(store, _learned(run, store, registry, base))
        if not pages:
            say(console, f"{run}: nothing to learn, no candidate was accepted", "yellow")
        for entered in book.enter(pages, accept=accept):
            say(console, f"{entered.outcome:<9} {entered.page.id}  {entered.page.title}")


def _learned(run: Path, store: RunStore, registry: Registry, base: KnowledgeBase) -> Learned:
    """Where a run was made. A backend that is not installed any more cannot say that it is public, so what
    comes from it counts as confidential."""
    name = str(store.settings["backend"])
    device: Device | None = None
    try:
        confidential = registry.backend(name).manifest.confidential
        devices = {device.id: device for device in registry.devices(name)}
        device = devices.get(str(store.settings["device"]))
    except KevolveError as error:
        click.echo(f"{run}: backend '{name}' cannot be asked ({error.what}): kept confidential", err=True)
        confidential = True
    arch = device.target.arch if device else ""
    known = base.targets.resolve(arch) if arch else name
    target = known if known in base.targets.canonical.values() else name
    return Learned(run.absolute().name, name, target, device, confidential)


@kb.group()
def skills() -> None:
    """Review what runs have taught."""


@skills.command("list")
def skills_list() -> None:
    """Every skill of yours and its state."""
    pages = SkillBook(user_folders()[0]).pages()
    console = out()
    if not pages:
        say(console, "no skills yet: kevolve kb learn RUN")
        return
    rows = [(page.status, page.id, page.title, _marks(page, status=False)) for page in pages]
    console.print(grid(rows, header=("state", "id", "title", "")))


def _change(status: str, words: str) -> None:
    @skills.command({"accepted": "accept", "rejected": "reject", "proposed": "review"}[status], help=words)
    @click.argument("ids", nargs=-1, required=True, metavar="ID...")
    def change(ids: tuple[str, ...]) -> None:
        book = SkillBook(user_folders()[0])
        for name in ids:
            say(out(), f"{status} {book.set_status(name, status).id}")


_change("accepted", "Use skills in prompts and as warm starts.")
_change("rejected", "Turn skills down; the same run does not propose them again.")
_change("proposed", "Put skills back under review.")


@skills.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def remove(ids: tuple[str, ...]) -> None:
    """Take skills out; a run may teach them again."""
    book = SkillBook(user_folders()[0])
    for name in ids:
        say(out(), f"removed {book.remove(name).id}")


@skills.command("show")
@click.argument("skill", metavar="ID")
def skills_show(skill: str) -> None:
    """Print one skill, also one under review."""
    page = SkillBook(user_folders()[0]).page(skill)
    console = out()
    say(console, page.title, "bold")
    say(console, f"{page.status}; {', '.join(page.sources)}\n")
    say(console, page.body)


def _marks(page: Page, *, status: bool = True) -> str:
    marks = ["confidential"] * page.confidential
    return ", ".join(marks + ([page.status] if status and page.status != "accepted" else []))


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

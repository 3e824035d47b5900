"""A backend distribution from the templates in this package: what a vendor starts from."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from kevolve_core.errors import ConfigError
from kevolve_core.interfaces import API_VERSION
from kevolve_core.registry.compat import core_version
from kevolve_core.registry.hookspecs import ENTRY_POINT_GROUP

__all__ = ["scaffold"]

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 40
#: Names that would make two things one: languages and generators of Kevolve, modules every Python has.
_TAKEN = frozenset(
    {"core", "kevolve", "local", "synth", "llm", "replay", "test", "python", "torch", "triton"}
)
_SUFFIX = ".in"


def scaffold(name: str, folder: Path) -> tuple[Path, ...]:
    """Write a complete backend distribution ``kevolve-NAME`` to ``folder``.

    Args:
        name: of the backend, its language and its package ``kevolve_NAME``: lower-case letters, digits and
            single underscores.
        folder: is made; may exist if it is empty.

    Returns:
        What was written.

    Raises:
        ConfigError: the name is not usable, the folder is not empty, or it cannot be written.
    """
    _check_name(name)
    _check_folder(folder)
    values = _values(name)
    root = files("kevolve_core") / "templates" / "backend"
    written: list[Path] = []
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            for path, template in _templates(root, ""):
                file = Path(scratch, _filled(path.removesuffix(_SUFFIX), values))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(_filled(template.read_text(encoding="utf-8"), values), encoding="utf-8")
                written.append(folder / file.relative_to(scratch))
            folder.mkdir(exist_ok=True)
            for made in Path(scratch).iterdir():
                shutil.move(str(made), folder / made.name)
    except OSError as error:
        raise ConfigError(
            "the folder cannot be written",
            got=error.strerror or str(error),
            where=str(folder),
            mend="name another one with --out",
        ) from error
    return tuple(sorted(written))


def _check_name(name: str) -> None:
    mend = "lower-case letters, digits and single underscores, beginning with a letter: acme, acme_npu2"
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        if _NAME.fullmatch(near) and len(near) <= _LONGEST:
            mend = f"did you mean '{near}'? ({mend})"
        raise ConfigError("a backend cannot have this name", got=repr(name), mend=mend)
    if name in _TAKEN or keyword.iskeyword(name):
        raise ConfigError(
            "a backend cannot have this name: it stands for something else already",
            got=name,
            mend="the name of the company or of the chip: acme, acme_npu2",
        )


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        if any(folder.iterdir()):
            raise ConfigError(
                "the folder is not empty, and nothing is overwritten",
                got=str(folder),
                mend="name another one with --out, or remove it",
            )
    elif folder.exists() or folder.is_symlink():
        raise ConfigError(
            "there is a file where the folder would be", got=str(folder), mend="name another one"
        )


def _values(name: str) -> dict[str, str]:
    major, minor = (*(int(part) for part in re.findall(r"\d+", core_version())), 0, 0)[:2]
    after = f"{major + 1}" if major else f"0.{minor + 1}"
    return {
        "name": name,
        "Name": "".join(part.capitalize() for part in name.split("_")),
        "api": str(API_VERSION),
        "core": f"{major}.{minor}",
        "next": after,
        "group": ENTRY_POINT_GROUP,
    }


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"@(name|Name|api|core|next|group)@", lambda match: values[match[1]], text)


def _templates(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _templates(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield f"{prefix}{entry.name}", entry

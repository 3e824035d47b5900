"""Changing ``plugins.toml`` on a user's behalf: his comments, order and spelling stay as they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kevolve_core.errors import ConfigError
from kevolve_core.registry.config import SCHEMA, read_plugins_file
from kevolve_core.registry.needs import Needs

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

__all__ = ["grant", "switch"]


def switch(file: Path, name: str, *, enabled: bool) -> bool:
    """Set ``enabled`` of plugin ``name`` in ``file``, which is made where it is not there; its every other
    plugin then goes on loading, as it does without a file.

    Returns:
        Whether anything had to be changed.

    Raises:
        ConfigError: the file is not valid, now or after the change, or cannot be written. It is then as it
        was.
    """

    def change(table: Any) -> None:
        table["enabled"] = enabled

    return _changed(file, name, change)


def grant(file: Path, name: str, needs: Needs) -> bool:
    """Add ``needs`` to the grants of plugin ``name`` in ``file``. Returns and raises as `switch`."""

    def change(table: Any) -> None:
        granted = table.setdefault("grants", {})
        for key, value in needs.plain().items():
            if isinstance(value, list) and isinstance(granted.get(key), list):
                granted[key].extend(each for each in value if each not in granted[key])
            else:
                granted[key] = value

    return _changed(file, name, change)


def _changed(file: Path, name: str, change: Callable[[Any], None]) -> bool:
    import tomlkit  # late: only the commands that change a file need it

    file = file.resolve()  # a link is followed, not replaced
    new = not file.exists()
    if new:
        text = ""
        document = _fresh()
    else:
        read_plugins_file(file)  # says what is wrong with it better than an editor of TOML
        text = file.read_text(encoding="utf-8")
        document = tomlkit.parse(text)
    plugins = document.setdefault("plugins", tomlkit.table(is_super_table=True))
    if name not in plugins:
        plugins[name] = tomlkit.table()
    change(plugins[name])
    changed = tomlkit.dumps(document)
    if changed != text:
        _replace(file, changed)
    return changed != text


def _fresh() -> TOMLDocument:
    import tomlkit

    return tomlkit.parse(
        "# Which plugins load here, and what they are granted. `kevolve plugins list` shows their states.\n"
        f'schema = {SCHEMA}\n\n[core]\nautoload = "all"\n\n'
    )


def _replace(file: Path, text: str) -> None:
    """Check the new text as a file beside the old one, then put it in its place at once."""
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise ConfigError(
            "the plugins file cannot be written",
            got=str(error),
            where=str(file),
            mend="make its folder writable, or name another file with --plugins",
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        if file.exists():
            os.chmod(beside, file.stat().st_mode & 0o777)
        else:
            os.chmod(beside, 0o644)
        try:
            read_plugins_file(Path(beside))
        except ConfigError as error:
            error.where = (error.where or "").replace(beside, str(file))
            raise
        os.replace(beside, file)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise

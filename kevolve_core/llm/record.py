"""What a run with language models keeps beside its calls: the device and the pages that its prompts show.

Both may change from day to day, and a prompt that changes is another request: one that was paid for would not
be found again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from kevolve_core.llm.context import Knowledge
from kevolve_core.model import Device
from kevolve_core.serial import dumps, from_plain, loads, to_plain
from kevolve_core.store.faults import damaged, guarded

__all__ = ["pinned_device", "pinned_pages"]


def pinned_device(run: Path, device: Device) -> Device:
    """The device as the run's first sitting saw it (its measured rates are measured again now and then)."""
    file = run / "llm" / "device.json"
    try:
        return loads(Device, file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _write(file, dumps(device))
        return device
    except Exception as error:  # json, cattrs' groups: whatever a damaged text makes of them
        raise damaged("the stored device cannot be read", str(file), error) from error


def pinned_pages(run: Path, name: str, retrieve: Callable[[], Sequence[Knowledge]]) -> list[Knowledge]:
    """The pages of one proposal, as they were found when it was first asked for."""
    file = run / "llm" / "pages" / f"{name}.json"
    try:
        return from_plain(list[Knowledge], json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        found = list(retrieve())
        _write(file, json.dumps(to_plain(found)))
        return found
    except Exception as error:
        raise damaged("stored pages cannot be read", str(file), error) from error


def _write(file: Path, text: str) -> None:
    """Visible whole or not at all."""
    with guarded(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)

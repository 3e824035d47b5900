"""What a run with language models keeps beside its calls: the device that its prompts describe."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kevolve_core.model import Device
from kevolve_core.serial import dumps, loads
from kevolve_core.store.faults import damaged, guarded

__all__ = ["pinned_device"]


def pinned_device(run: Path, device: Device) -> Device:
    """The device as the run's first sitting saw it. Measured rates change from day to day, and a prompt that
    changes is another request: one that was paid for would not be found again."""
    file = run / "llm" / "device.json"
    try:
        return loads(Device, file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except Exception as error:  # json, cattrs' groups: whatever a damaged text makes of them
        raise damaged("the stored device cannot be read", str(file), error) from error
    with guarded(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(json.loads(dumps(device)), indent=1), encoding="utf-8")
        os.replace(temporary, file)
    return device

"""A GPU's ceilings, measured once and kept: memory rates, matmul rates, the cost of a launch."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from kevolve_core.errors import KevolveError
from kevolve_core.model import Device, Evidence, content_hash
from kevolve_nvidia.settings import Settings

__all__ = ["Peaks", "cached_peaks", "measure_peaks"]

_TIMEOUT_S = 180


@frozen
class Peaks:
    """Ceilings of one GPU. Bytes are those a program asks for: a copy counts each twice.

    Args:
        copy_bytes_per_s: a device-to-device copy of arrays much larger than L2.
        read_bytes_per_s: a float32 sum over such an array.
        matmul_flops_per_s: type -> rate of the library's product of two 8192² matrices (float32: 4096²),
            random data: ``float32`` (TF32 off), ``tfloat32``, ``float16``, ``bfloat16``.
        launch_seconds: device time of an empty kernel, by events around it.
        torch: version of PyTorch that measured.
        date: ISO date of the measurement.
        evidence: ``measured``.
    """

    copy_bytes_per_s: float
    read_bytes_per_s: float
    matmul_flops_per_s: dict[str, float] = attrs.field(hash=False)
    launch_seconds: float
    torch: str
    date: str
    evidence: str = Evidence.MEASURED.value

    @property
    def peak_bytes_per_s(self) -> float:
        """The better of both memory rates: no kernel moves more from and to memory."""
        return max(self.copy_bytes_per_s, self.read_bytes_per_s)

    def on(self, device: Device) -> Device:
        """``device`` with these rates in its facts, and the three that a time floor is made of by their
        general names."""
        general = {
            "peak_bytes_per_s": self.peak_bytes_per_s,
            "peak_flops_per_s": self.matmul_flops_per_s["float32"],
            "launch_seconds": self.launch_seconds,
        }
        return attrs.evolve(device, facts={**device.facts, **general, "peaks": attrs.asdict(self)})


def cached_peaks(device: Device, settings: Settings) -> Peaks | None:
    """What was measured on this GPU before, or None."""
    try:
        return Peaks(**json.loads(_file(device, settings).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def measure_peaks(device: Device, settings: Settings, *, refresh: bool = False) -> Peaks:
    """The ceilings, from the cache unless ``refresh``; measured in a process of its own otherwise.

    Raises:
        KevolveError: measuring failed; has what PyTorch said.
    """
    known = cached_peaks(device, settings)
    if known is not None and not refresh:
        return known
    program = Path(__file__).with_name("measure.py")
    command = [sys.executable, str(program), str(device.facts["index"]), str(device.facts["l2_bytes"])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise KevolveError(
            f"measuring the GPU's rates did not end within {_TIMEOUT_S} s",
            where=device.name,
            mend="try again while nothing else uses it",
        ) from error
    if done.returncode != 0:
        raise KevolveError(
            "measuring the GPU's rates failed",
            got=(done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300],
            where=device.name,
            mend="see that PyTorch is built for CUDA, and that about 4 GiB of GPU memory are free",
        )
    values: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    peaks = Peaks(**values, date=datetime.date.today().isoformat())
    path = _file(device, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(attrs.asdict(peaks), indent=1))
    os.replace(draft, path)
    return peaks


def _file(device: Device, settings: Settings) -> Path:
    key = content_hash([device.name, device.facts.get("uuid", ""), device.target.arch])
    return settings.cache / "peaks" / f"{key[:16]}.json"

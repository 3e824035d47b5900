"""Nsight Compute's counters of one call of a candidate, where ``ncu`` may read them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs
from attrs import field, frozen

from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Device, freeze
from kevolve_core.serial import to_plain
from kevolve_nvidia.compiler import SOURCE_FOLDER
from kevolve_nvidia.settings import Settings
from kevolve_nvidia.tools import find_tool

__all__ = ["METRICS", "STALLS", "Readings", "parse_ncu", "read_counters"]

_TIMEOUT_S = 90

#: Our name -> Nsight Compute's (Nsight Compute documentation, Metrics Guide). Percentages become shares of 1.
METRICS: Mapping[str, str] = {
    "kernel_seconds": "gpu__time_duration.sum",
    "dram_bytes": "dram__bytes.sum",
    "dram_throughput": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm_throughput": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "tensor_throughput": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "achieved_occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "l2_hit_rate": "lts__t_sector_hit_rate.pct",
    "sectors_per_load": "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld.ratio",
}
STALLS: tuple[str, ...] = (
    "long_scoreboard", "short_scoreboard", "barrier", "lg_throttle", "mio_throttle", "math_pipe_throttle",
    "wait",
)  # fmt: skip
_STALL_METRIC = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"


@frozen
class Readings:
    """Counters of one call, all its kernels together: seconds and bytes are sums, shares and ratios are means
    by time. ``note`` says why there are none."""

    values: Mapping[str, float] = field(factory=dict, converter=freeze, hash=False)
    stalls: Mapping[str, float] = field(factory=dict, converter=freeze, hash=False)
    kernels: tuple[str, ...] = ()
    note: str = ""


def read_counters(
    spec: KernelSpec, case: Case, artifact: Artifact, device: Device, settings: Settings
) -> Readings:
    """Run the candidate once more, in a process of its own under ``ncu``, at the clocks as they are. Never
    raises for what the machine does not offer."""
    ncu = find_tool("ncu")
    if not ncu:
        return Readings(note="no hardware counters: ncu (Nsight Compute) is not installed")
    source = Path(str(artifact.facts.get("folder", ""))) / SOURCE_FOLDER
    if not source.is_dir():
        return Readings(note="no hardware counters: the candidate has no compiled kernels of its own")
    metrics = [*METRICS.values(), *(_STALL_METRIC.format(name) for name in STALLS)]
    with tempfile.TemporaryDirectory(prefix="kevolve-ncu-") as folder:
        request = Path(folder, "request.json")
        request.write_text(
            json.dumps(
                {
                    "sys_path": sys.path,
                    "spec": to_plain(spec),
                    "case": case.name,
                    "artifact": to_plain(artifact),
                    "device": to_plain(device),
                    "settings": attrs.asdict(settings),
                    "source": str(source),
                }
            )
        )
        command = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
        command += ["--target-processes", "application-only", "--metrics", ",".join(metrics)]
        command += [sys.executable, "-m", "kevolve_nvidia.replay", str(request)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                env=_environment(folder),
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return Readings(note=f"no hardware counters: ncu did not end within {_TIMEOUT_S} s")
    found = parse_ncu(done.stdout)
    if found.values:
        return found
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "Error" in line]
    return Readings(note=f"no hardware counters: {(said or ['ncu printed none'])[-1].strip()[:200]}")


def _environment(folder: str) -> dict[str, str]:
    import os

    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}


def parse_ncu(text: str) -> Readings:
    """Readings from the output of ``ncu --csv --page raw``: a header line, a line of units, a line a kernel;
    the program's own output and ``==PROF==`` lines lie around them."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines)))) if lines else []
    if len(rows) < 2:
        return Readings()
    units, kernels = rows[0], rows[1:]
    columns = {**METRICS, **{f"stall_{name}": _STALL_METRIC.format(name) for name in STALLS}}
    read = {
        name: [_number(row.get(column, ""), units.get(column, "")) for row in kernels]
        for name, column in columns.items()
        if column in units
    }
    times = [t or 0.0 for t in read.get("kernel_seconds", [])] or [1.0] * len(kernels)
    total = sum(times) or 1.0
    values: dict[str, float] = {}
    for name, series in read.items():
        known = [(v, t) for v, t in zip(series, times, strict=True) if v is not None]
        if not known:
            continue
        if name in ("kernel_seconds", "dram_bytes"):
            values[name] = sum(v for v, _ in known)
        else:
            values[name] = sum(v * t for v, t in known) / (sum(t for _, t in known) or total)
    values["kernels"] = float(len(kernels))
    stalls = {name: values[f"stall_{name}"] for name in STALLS if f"stall_{name}" in values}
    return Readings(values, stalls, tuple(row.get("Kernel Name", "") for row in kernels))


_UNITS: Mapping[str, float] = {
    "ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3, "s": 1.0,
    "second": 1.0, "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "%": 0.01,
}  # fmt: skip


def _number(text: str, unit: str) -> float | None:
    try:
        return float(text.replace(",", "")) * _UNITS.get(unit, 1.0)
    except ValueError:
        return None

"""What `synth` writes by default in each language of the NVIDIA backend, side by side with eager PyTorch.

    python benchmarks/h100_languages.py [--only NAME] [--evaluate] [--json FILE]

Each kernel is the default of its language (no search), exported into one file that needs no part of Kevolve,
and run in this process. Times are medians over CUDA events, kernel and eager in turns, L2 flushed by
reading, launches queued behind a kernel that waits. `error` is the root of the mean square against float64
over that of the result, on normal, 1 % sparse and large inputs, the worst of them; `parity` holds it against
twice eager's and four units of the type. float32 products run in eager without TF32. `copy` is compulsory
bytes over time as a share of this GPU's copy, measured in the same run. With --evaluate, small cases also go
through the evaluator with all its workers and checks; what it says is in `verdicts`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from attrs import frozen

import kevolve_core
from kevolve_core.bundle.export import export
from kevolve_core.errors import KevolveError
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Candidate, Device
from kevolve_core.report import environment
from kevolve_core.synth import SynthGenerator
from kevolve_nvidia.plugin import NvidiaBackend

ROUNDS = 21
CHECKED_ROWS = 512


@frozen
class Problem:
    """A function of tensors, the first of whose dimensions are rows of the result."""

    name: str
    body: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "float32"
    languages: tuple[str, ...] = ("triton", "cuda")
    flops: float = 0.0

    def spec(self) -> KernelSpec:
        names = [f"x{k}" for k in range(len(self.shapes))]
        source = f"def f({', '.join(names)}):\n    return {self.body}\n"
        source = f"import torch\nimport torch.nn.functional as F\n\n\n{source}"
        inputs = tuple(InputSpec(n, s, dtype=self.dtype) for n, s in zip(names, self.shapes, strict=True))
        return KernelSpec(self.name, Reference(source, "f"), (Case("main", inputs),))


def rows(
    name: str, body: str, *more: tuple[int, ...], shape: tuple[int, int] = (16384, 4096)
) -> list[Problem]:
    return [Problem(name, body, (shape, *more), dtype) for dtype in ("float32", "bfloat16")]


def product(m: int, n: int, k: int, dtype: str, tail: str = "x0 @ x1", *more: tuple[int, ...]) -> Problem:
    name = "matmul" if tail == "x0 @ x1" else "matmul_epilogue"
    return Problem(f"{name}_{m}", tail, ((m, k), (k, n), *more), dtype, ("cute",), 2.0 * m * n * k)


GELU = "F.gelu(x0 @ x1 + x2)"
PROBLEMS = (
    *rows("softmax", "torch.softmax(x0, -1)"),
    *rows("layer_norm", "F.layer_norm(x0, (4096,), x1, x2)", (4096,), (4096,)),
    *rows("rms_norm", "F.rms_norm(x0, (4096,), x1, 1e-6)", (4096,)),
    *rows("gelu_bias", "F.gelu(x0 + x1)", (4096,)),
    *rows("layer_norm_256", "F.layer_norm(x0, (256,), x1, x2)", (256,), (256,), shape=(262144, 256))[:1],
    *rows("softmax_32768", "torch.softmax(x0, -1)", shape=(2048, 32768))[:1],
    product(4096, 4096, 4096, "float32"),
    product(8192, 8192, 8192, "bfloat16"),
    product(4096, 4096, 4096, "float16"),
    product(2048, 4096, 1024, "float32", GELU, (4096,)),
    product(2048, 4096, 1024, "bfloat16", GELU, (4096,)),
)
SMALL = (
    Problem("softmax", "torch.softmax(x0, -1)", ((64, 1000),), "float32", ("cuda",)),
    Problem("matmul", "x0 @ x1", ((192, 136), (136, 264)), "float32", ("cute",)),
    Problem("matmul_gelu", GELU, ((192, 136), (136, 264), (264,)), "bfloat16", ("cute",)),
)


def draws(problem: Problem, kind: str) -> list[torch.Tensor]:
    """Inputs on the GPU; ``kind`` is normal, sparse or large."""
    found = []
    for shape in problem.shapes:
        x = torch.randn(shape, device="cuda")
        if kind == "sparse":
            x *= torch.rand_like(x) < 0.01
        if kind == "large":
            x *= 8 if problem.dtype == "float16" else 1024  # sums of thousands of products stay finite
        found.append(x.to(getattr(torch, problem.dtype)))
    return found


def part(problem: Problem, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The inputs in float64, as far as the first rows of the result depend on them."""
    many = problem.shapes[0][0]
    by_row = [k == 0 or (s[0] == many and problem.flops == 0) for k, s in enumerate(problem.shapes)]
    return [(t[:CHECKED_ROWS] if r else t).double() for t, r in zip(tensors, by_row, strict=True)]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    error = (found[:CHECKED_ROWS].double() - wanted).pow(2).mean().sqrt()
    return float(error / wanted.pow(2).mean().sqrt())


class Clock:
    """Times calls on an H100: 50 MB of L2 read over three times before each."""

    def __init__(self) -> None:
        self._flush = torch.ones(40 << 20, device="cuda")

    def once(self, call: Callable[[], Any]) -> float:
        """Seconds."""
        self._flush.sum()
        torch.cuda._sleep(2_000_000)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def in_turns(self, *calls: Callable[[], Any]) -> list[float]:
        samples = [[self.once(call) for call in calls] for _ in range(ROUNDS)]
        return [median(column) for column in zip(*samples, strict=True)]


def copied(clock: Clock) -> float:
    """Bytes a second of a copy, counting both directions."""
    x = torch.randn(1 << 27, device="cuda")
    y = torch.empty_like(x)
    return 2.0 * x.numel() * x.element_size() / clock.in_turns(lambda: y.copy_(x))[0]


def candidate_of(problem: Problem, backend: NvidiaBackend, device: Device, language: str) -> Candidate:
    renderer = backend.renderers()[language]
    generator = SynthGenerator(problem.spec(), {language: renderer}, backend.schedule_space, device)
    return generator.default()


def loaded(candidate: Candidate, backend: NvidiaBackend, folder: Path, name: str) -> Callable[..., Any]:
    """The exported kernel as a function."""
    path = folder / f"{name}.py"
    path.write_text(export(candidate, backend.standalone_loader(candidate.language)))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = module.f
    return function


def row_of(
    problem: Problem, language: str, kernel: Callable[..., Any], clock: Clock, copy: float
) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(problem.spec().reference.source, namespace)
    eager = namespace["f"]
    eps = torch.finfo(getattr(torch, problem.dtype)).eps
    errors: list[tuple[float, float]] = []
    for kind in ("normal", "sparse", "large"):
        tensors = draws(problem, kind)
        wanted = eager(*part(problem, tensors))
        errors.append((relative(kernel(*tensors), wanted), relative(eager(*tensors), wanted)))
    tensors = draws(problem, "normal")
    seconds, base = clock.in_turns(lambda: kernel(*tensors), lambda: eager(*tensors))
    out = eager(*tensors)
    moved = sum(t.numel() * t.element_size() for t in (*tensors, out))
    return {
        "problem": problem.name,
        "dtype": problem.dtype,
        "shapes": [list(s) for s in problem.shapes],
        "language": language,
        "kernel_us": round(seconds * 1e6, 2),
        "eager_us": round(base * 1e6, 2),
        "ratio": round(base / seconds, 3),
        "error": max(e for e, _ in errors),
        "eager_error": max(e for _, e in errors),
        "parity": all(e <= max(2 * b, 4 * eps) for e, b in errors),
        "copy": round(moved / seconds / copy, 3),
        "tflops": round(problem.flops / seconds * 1e-12, 1) if problem.flops else None,
    }


def verdicts(backend: NvidiaBackend, device: Device) -> list[dict[str, Any]]:
    found = []
    for problem in SMALL:
        for language in problem.languages:
            candidate = candidate_of(problem, backend, device, language)
            evaluation = kevolve_core.evaluate(problem.spec(), candidate, backend="nvidia")
            verdict = evaluation.verdict
            row = {"problem": problem.name, "dtype": problem.dtype, "language": language}
            found.append({**row, "accepted": evaluation.accepted, "verdict": str(verdict.kind)})
            print(f"evaluated  {problem.name:<14}{problem.dtype:<10}{language:<8}{verdict.kind}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--evaluate", action="store_true", help="small cases through the evaluator, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    backend = NvidiaBackend({})
    devices = [d for d in backend.probe() if "run" in d.capabilities]
    if not devices:
        raise SystemExit("h100_languages: there is no NVIDIA GPU here")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    clock = Clock()
    copy = copied(clock)
    print(f"copy {copy / 1e12:.2f} TB/s")
    print(
        f"{'problem':<22}{'dtype':<10}{'language':<8}{'kernel':>9}{'eager':>9}{'ratio':>7}{'copy':>7}  error"
    )
    table: list[dict[str, Any]] = []
    known = backend.renderers()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for problem in (p for p in PROBLEMS if options.only in p.name):
            for language in (name for name in problem.languages if name in known):
                try:
                    candidate = candidate_of(problem, backend, devices[0], language)
                    name = f"{problem.name}_{problem.dtype}_{language}"
                    kernel = loaded(candidate, backend, Path(folder), name)
                    table.append(row_of(problem, language, kernel, clock, copy))
                except (KevolveError, RuntimeError) as error:
                    row = {"problem": problem.name, "dtype": problem.dtype, "language": language}
                    table.append({**row, "failed": f"{type(error).__name__}: {error}"[:300]})
                show(table[-1])
    judged = verdicts(backend, devices[0]) if options.evaluate else []
    if options.json:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, cwd=Path(__file__).parent, check=False,
        ).stdout.strip()  # fmt: skip
        ratios = [r["ratio"] for r in table if "ratio" in r]
        summary = {
            "geomean": round(math.exp(sum(map(math.log, ratios)) / max(1, len(ratios))), 3),
            "worst": min(ratios, default=None),
            "correct": sum(r.get("parity", False) for r in table),
            "total": len(table),
            "verdicts": judged,
            "command": "python benchmarks/h100_languages.py" + (" --evaluate" if options.evaluate else ""),
            "environment": {
                "device": torch.cuda.get_device_name(),
                "copy_bytes_per_s": copy,
                "cuda": torch.version.cuda,
                "commit": commit,
                **environment(("triton", "nvidia-cutlass-dsl", "cuda-bindings")),
            },
        }
        options.json.write_text(json.dumps({"rows": table, "summary": summary}, indent=1) + "\n")


def show(row: dict[str, Any]) -> None:
    head = f"{row['problem']:<22}{row['dtype']:<10}{row['language']:<8}"
    if "failed" in row:
        print(head + row["failed"], flush=True)
        return
    times = f"{row['kernel_us']:>9.1f}{row['eager_us']:>9.1f}{row['ratio']:>7.2f}{100 * row['copy']:>6.0f} %"
    parity = "" if row["parity"] else "  NOT AT PARITY"
    speed = f"  {row['tflops']} TFLOP/s" if row["tflops"] else ""
    print(f"{head}{times}  {row['error']:.1e} (eager {row['eager_error']:.1e}){parity}{speed}", flush=True)


if __name__ == "__main__":
    main()

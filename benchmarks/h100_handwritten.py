"""What `synth` writes beside kernels that people wrote for the same operators, on one NVIDIA GPU.

    python benchmarks/h100_handwritten.py [--only NAME] [--drafts 6] [--json FILE] [--dry]

Liger kernels (PyPI: liger-kernel, through its functional interface) and the attention kernels behind
PyTorch's `scaled_dot_product_attention` (FlashAttention, cuDNN's), each forward, without gradients. Ours is
the fastest of the first drafts of a search, compiled ahead in parallel and ranked by a few calls each; then
all sides run in turns in one process, L2 flushed, launches queued ahead: medians of CUDA events. `over` is
their time over ours. `error` is the root of the mean square against float64 over that of the result; `parity`
holds ours against twice eager's and four units of the type. `--dry` compiles the drafts for Hopper, without a
GPU, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from attrs import frozen
from h100_languages import Clock
from h100_schedules import compiled
from provenance import environment, shown_command

from kevolve_core.errors import KevolveError
from kevolve_core.interfaces import Proposal
from kevolve_core.kernelspec import Case, Distribution, InputSpec, KernelSpec, Reference
from kevolve_core.model import Artifact, Candidate, Device
from kevolve_core.synth import SynthGenerator
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only, found_devices
from kevolve_nvidia.plugin import NvidiaBackend
from kevolve_nvidia.runner import NvidiaRunner

Call = Callable[..., Any]
_QUICK = 5  # calls by which drafts are ranked


@frozen
class Problem:
    """An operator; ``draw`` are expressions of its inputs on the GPU, ``theirs`` names functions of them."""

    name: str
    body: str
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    theirs: Mapping[str, Callable[[], Call]]
    classes: int = 0  # integers are drawn below it

    def spec(self) -> KernelSpec:
        names = [f"x{k}" for k in range(len(self.inputs))]
        source = f"def f({', '.join(names)}):\n    return {self.body}\n"
        source = f"import torch\nimport torch.nn.functional as F\n\n\n{source}"
        inputs = tuple(
            InputSpec(n, shape, dtype, self.labels if dtype == "int64" else Distribution())
            for n, (shape, dtype) in zip(names, self.inputs, strict=True)
        )
        return KernelSpec(self.name, Reference(source, "f"), (Case("main", inputs),))

    @property
    def labels(self) -> Distribution:
        """Of integers."""
        return Distribution("integers", 0, self.classes)

    def draw(self) -> list[torch.Tensor]:
        """Inputs on the GPU."""
        return [
            torch.randint(self.classes, shape, device="cuda")
            if dtype == "int64"
            else torch.randn(shape, device="cuda").to(getattr(torch, dtype))
            for shape, dtype in self.inputs
        ]


def liger(name: str, call: Callable[[Any], Call]) -> dict[str, Callable[[], Call]]:
    """A function of Liger's functional interface, imported when it is asked for."""

    def made() -> Call:
        from liger_kernel.transformers import functional  # type: ignore[import-not-found]

        return call(getattr(functional, f"liger_{name}"))

    return {"liger": made}


def sdpa(causal: bool) -> dict[str, Callable[[], Call]]:
    """PyTorch's attention by one implementation each."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def by(backend: SDPBackend) -> Callable[[], Call]:
        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

        return lambda: call

    return {"flash": by(SDPBackend.FLASH_ATTENTION), "cudnn": by(SDPBackend.CUDNN_ATTENTION)}


def problems() -> list[Problem]:
    found = []
    for dtype in ("bfloat16", "float32"):
        rows, weight = ((16384, 4096), dtype), ((4096,), dtype)
        label = {"bfloat16": "bf16", "float32": "f32"}[dtype]
        found += [
            Problem(f"rms_norm_{label}", "F.rms_norm(x0, (4096,), x1, 1e-6)", (rows, weight),
                    liger("rms_norm", lambda f: lambda x, w: f(x, w, 1e-6))),
            Problem(f"layer_norm_{label}", "F.layer_norm(x0, (4096,), x1, x2, 1e-5)", (rows, weight, weight),
                    liger("layer_norm", lambda f: lambda x, w, b: f(x, w, b, 1e-5))),
            Problem(f"softmax_{label}", "torch.softmax(x0, -1)", (rows,), liger("softmax", lambda f: f)),
            Problem(f"swiglu_{label}", "F.silu(x0) * x1", (rows, rows), liger("swiglu", lambda f: f)),
            Problem(f"geglu_{label}", "F.gelu(x0, approximate='tanh') * x1", (rows, rows),
                    liger("geglu", lambda f: f)),
            Problem(f"group_norm_{label}", "F.group_norm(x0, 32, x1, x2, 1e-5)",
                    (((32, 256, 64, 64), dtype), ((256,), dtype), ((256,), dtype)),
                    liger("group_norm", lambda f: lambda x, w, b: f(x, w, b, 256, 32, 1e-5))),
            Problem(f"cross_entropy_{label}", "F.cross_entropy(x0, x1)",
                    (((8192, 32000), dtype), ((8192,), "int64")),
                    liger("cross_entropy", lambda f: f), classes=32000),
        ]  # fmt: skip
    for heads, width, causal in ((16, 64, False), (16, 64, True), (16, 128, False), (16, 128, True)):
        qkv = (((2, heads, 4096, width), "bfloat16"),) * 3
        name = f"attention_{width}" + ("_causal" if causal else "")
        body = f"F.scaled_dot_product_attention(x0, x1, x2, is_causal={causal})"
        found.append(Problem(name, body, qkv, sdpa(causal)))
    return found


def drafts(problem: Problem, backend: NvidiaBackend, device: Device, count: int) -> list[Candidate]:
    """The first proposals of a search, of all languages."""
    spec = problem.spec()
    generator = SynthGenerator(spec, backend.renderers(), backend.schedule_space, device)
    return list(generator.propose_now(Proposal(spec, device, 0, 0), count))


def fastest(
    made: Sequence[tuple[Candidate, Artifact | KevolveError]],
    runner: NvidiaRunner, scratch: Path, tensors: Sequence[torch.Tensor], clock: Clock,
) -> tuple[Call, str, list[dict[str, Any]]]:  # fmt: skip
    """The fastest draft, its language, and a row a draft. A runner has one candidate at a time: the fastest
    is loaded again at the end."""
    rows, ranked = [], []
    for n, (candidate, artifact) in enumerate(made):
        row: dict[str, Any] = {"language": candidate.language}
        rows.append(row)
        if isinstance(artifact, KevolveError):
            row["failed"] = str(artifact).splitlines()[0][:200]
            continue
        folder = scratch / str(n)
        folder.mkdir(parents=True)
        for name, text in candidate.files.items():
            (folder / name).write_text(text)
        try:
            call = loaded(runner, candidate, artifact, folder)
            call(*tensors)
            row["us"] = 1e6 * median(clock.once(lambda call=call: call(*tensors)) for _ in range(_QUICK))
            ranked.append((row["us"], n))
        except Exception as error:  # a draft that fails is a row
            row["failed"] = f"{type(error).__name__}: {error}"[:200]
    if not ranked:
        raise KevolveError("no draft ran", got="; ".join(str(r.get("failed")) for r in rows)[:500])
    candidate, artifact = made[min(ranked)[1]]
    assert isinstance(artifact, Artifact)
    return loaded(runner, candidate, artifact, scratch / str(min(ranked)[1])), candidate.language, rows


def loaded(runner: NvidiaRunner, candidate: Candidate, artifact: Artifact, folder: Path) -> Call:
    call: Call = getattr(runner.load(artifact, folder), candidate.symbol or "f")
    return call


def compared(
    problem: Problem, made: Sequence[tuple[Candidate, Artifact | KevolveError]], runner: NvidiaRunner,
    scratch: Path, clock: Clock,
) -> dict[str, Any]:  # fmt: skip
    """The row of a problem."""
    namespace: dict[str, Any] = {}
    exec(problem.spec().reference.source, namespace)
    eager, tensors = namespace["f"], problem.draw()
    ours, language, tried = fastest(made, runner, scratch, tensors, clock)
    wanted = eager(*(t.double() if t.is_floating_point() else t for t in tensors))
    sides: dict[str, Call] = {"ours": ours, "eager": eager}
    row: dict[str, Any] = {"problem": problem.name, "language": language, "drafts": tried}
    for name, of in problem.theirs.items():
        try:
            call = of()
            call(*tensors)
            sides[name] = call
        except Exception as error:  # a library that is not there, or refuses the shape
            row[f"{name}_failed"] = f"{type(error).__name__}: {error}"[:200]
    errors = {name: relative(call(*tensors), wanted) for name, call in sides.items()}
    times = dict(zip(sides, clock.in_turns(*(lambda c=c: c(*tensors) for c in sides.values())), strict=True))
    eps = torch.finfo(tensors[0].dtype).eps
    return row | {
        "us": {name: round(1e6 * t, 2) for name, t in times.items()},
        "over": {name: round(t / times["ours"], 3) for name, t in times.items() if name != "ours"},
        "error": errors,
        "parity": errors["ours"] <= max(2 * errors["eager"], 4 * eps),
    }


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root of the mean square of the difference over that of the result."""
    return float((found.double() - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt())


def show(row: Mapping[str, Any]) -> None:
    if "failed" in row:
        print(f"{row['problem']:<20}{row['failed']}", flush=True)
        return
    over = "  ".join(f"{name} {value:.2f}" for name, value in row["over"].items())
    parity = "" if row["parity"] else "  NOT AT PARITY"
    print(f"{row['problem']:<20}{row['language']:<8}{row['us']['ours']:>9.1f} us  {over}{parity}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--drafts", type=int, default=6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    backend = NvidiaBackend({})
    devices = [compile_only("sm_90a")] if options.dry else found_devices(frozenset({"run"}))
    if not devices:
        raise SystemExit("h100_handwritten: there is no NVIDIA GPU here; --dry compiles without one")
    chosen = [p for p in problems() if options.only in p.name]
    jobs = [(p.spec(), c) for p in chosen for c in drafts(p, backend, devices[0], options.drafts)]
    compiler = NvidiaCompiler(backend.settings, devices[0])
    built = list(zip(jobs, compiled(compiler, jobs), strict=True))
    compiler.close()
    print(f"{sum(isinstance(b, Artifact) for _, b in built)} of {len(built)} drafts compiled", flush=True)
    if options.dry:
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    runner = NvidiaRunner(devices[0], backend.settings)
    with TemporaryDirectory() as folder, torch.no_grad():
        runner.open(Path(folder))
        clock = Clock()
        for problem in chosen:
            made = [(c, b) for (spec, c), b in built if spec.name == problem.name]
            try:
                rows.append(compared(problem, made, runner, Path(folder, problem.name), clock))
            except (KevolveError, RuntimeError) as error:
                rows.append({"problem": problem.name, "failed": f"{type(error).__name__}: {error}"[:300]})
            show(rows[-1])
            write(options.json, rows)
        runner.reset()
    print(json.dumps(geomeans(rows)))


def write(file: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """What is there so far."""
    if file is None:
        return
    summary = {
        **geomeans(rows),
        "correct": sum(r.get("parity", False) for r in rows),
        "total": len(rows),
        "command": shown_command("h100_handwritten.py", sys.argv[1:]),
        "environment": environment() | {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda},
    }
    file.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


def geomeans(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Their times over ours, by side."""
    by: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.get("over", {}).items():
            by.setdefault(name, []).append(value)
    return {f"geomean_over_{n}": round(math.exp(sum(map(math.log, v)) / len(v)), 3) for n, v in by.items()}


if __name__ == "__main__":
    main()

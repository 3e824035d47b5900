"""From nothing to a conformant backend, as a vendor would: wheels, a clean environment, a scaffold, a search.

    python tools/vendor_check.py              # third-party packages are those of this environment
    python tools/vendor_check.py --clean      # everything from the package index, torch as in constraints.txt
    python tools/vendor_check.py --types      # mypy --strict on the scaffold as well

Builds core's wheel, makes a virtual environment with no source tree in reach, scaffolds a backend with the
`kevolve` installed there, builds and installs that one's wheel, removes its source, runs the conformance kit
and a search on it, and prints the seconds of each step, and the processor time of all, which a busy machine
does not add to. Exit code 1 where a step fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import Factory, define, frozen

__all__ = ["Environment", "StepError", "check", "linked_environment", "main"]

ROOT = Path(__file__).resolve().parents[1]
NAME = "acme"
_SITES = ("site-packages", "dist-packages")
_SECONDS = 1500  # for one step; a first download of torch over a slow line takes minutes


class StepError(Exception):
    """A step of the check failed; the text has its command and output."""


@frozen
class Environment:
    """A virtual environment, and the folder that commands run in."""

    python: Path
    workdir: Path

    def run(self, *command: str | Path) -> str:
        """What ``command`` prints; the environment's own commands come first. Raises StepError."""
        path = os.pathsep.join([str(self.python.parent), os.environ.get("PATH", "")])
        kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "OMP_", "LANG", "LC_", "SSL_"))}
        scrubbed = {**kept, "PATH": path, "HOME": str(self.workdir), "TMPDIR": str(self.workdir)}
        return run(command, cwd=self.workdir, env=scrubbed)


def run(command: Sequence[str | Path], cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command to its end. Raises StepError where it fails or takes too long."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError(f"$ {' '.join(words)}\n{error}") from error
    if done.returncode:
        raise StepError(f"$ {' '.join(words)}\n{done.stdout}exit code {done.returncode}")
    return done.stdout


def build_wheel(project: Path, folder: Path) -> Path:
    """The wheel of ``project``, built with this environment's tools."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(project)], cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def linked_environment(folder: Path) -> Environment:
    """A new environment that sees this one's third-party packages, and nothing of Kevolve."""
    # Without the pip and setuptools that venv brings: they would hide this environment's.
    python = _new(folder / "venv", "--without-pip")
    for name in ("pip", "pytest"):
        command = python.with_name(name)
        command.write_text(f'#!/bin/sh\nexec "{python}" -m {name} "$@"\n')
        command.chmod(0o755)
    third_party = folder / "third-party"
    third_party.mkdir()
    for site in {Path(p) for p in sys.path if p.endswith(_SITES) and Path(p).is_dir()}:
        for entry in site.iterdir():
            ours = entry.name.lower().lstrip("_").startswith(("kevolve", "editable"))
            if not ours and entry.suffix != ".pth" and not (third_party / entry.name).is_symlink():
                (third_party / entry.name).symlink_to(entry)
    (site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site_packages / "third-party.pth").write_text(f"{third_party}\n")
    return Environment(python, _workdir(folder))


def clean_environment(folder: Path) -> Environment:
    """A new environment with pip alone."""
    return Environment(_new(folder / "venv"), _workdir(folder))


def _new(place: Path, *options: str) -> Path:
    run([sys.executable, "-m", "venv", *options, str(place)], cwd=place.parent)
    return place / "bin" / "python"


def _workdir(folder: Path) -> Path:
    made = folder / "work"
    made.mkdir()
    return made


@define
class Check:
    """The steps, timed."""

    folder: Path
    tell: Callable[[str], None]
    seconds: dict[str, float] = Factory(dict)

    def step(self, name: str, work: Callable[[], object]) -> None:
        started = time.monotonic()
        work()
        self.seconds[name] = time.monotonic() - started
        self.tell(f"{self.seconds[name]:7.1f} s  {name}")


def check(
    folder: Path,
    *,
    clean: bool,
    tiers: Sequence[int],
    budget: str,
    tell: Callable[[str], None],
    types: bool = False,
) -> dict[str, float]:
    """All steps in ``folder``.

    Args:
        clean: take third-party packages from the package index.
        tiers: of the conformance kit; none: those that the scaffold claims.
        budget: of the search.
        tell: hears of each step as it ends.
        types: let mypy read the scaffold too, strictly and with this environment's mypy: half a minute.

    Returns:
        Seconds by step.

    Raises:
        StepError: one failed.
    """
    steps = Check(folder, tell)
    wheels = folder / "core"
    wheels.mkdir()
    made: list[Environment] = []
    steps.step("build the wheel of kevolve", lambda: build_wheel(ROOT, wheels))
    new = clean_environment if clean else linked_environment
    steps.step("make an environment", lambda: made.append(new(folder)))
    (env,) = made
    steps.step("install kevolve", lambda: _install(env, wheels, clean))
    steps.step("see that no source tree is in reach", lambda: _no_source(env))
    project = env.workdir / f"kevolve-{NAME}"
    steps.step("kevolve plugin new", lambda: env.run("kevolve", "plugin", "new", NAME, "--out", project))
    if types:
        steps.step("mypy --strict", lambda: _types(env, project, clean))
    steps.step("build and install its wheel", lambda: _install_backend(env, project, clean))
    steps.step("kevolve plugins list", lambda: _ready(env))
    steps.step("kevolve conformance", lambda: _conformance(env, tiers))
    steps.step("kevolve evolve", lambda: _evolve(env, budget))
    return steps.seconds


def _install(env: Environment, wheels: Path, clean: bool) -> None:
    (wheel,) = wheels.glob("*.whl")
    options = ["--constraint", str(ROOT / "constraints.txt")] if clean else ["--no-deps", "--no-index"]
    env.run(env.python, "-m", "pip", "install", "--quiet", *options, wheel)


def _no_source(env: Environment) -> None:
    text = "import kevolve_core, sys; print(kevolve_core.__file__); print(*sys.path, sep='\\n')"
    place, *path = env.run(env.python, "-c", text).splitlines()
    if "site-packages" not in place or any(
        Path(p) == ROOT or ROOT / "backends" in Path(p).parents for p in path
    ):
        raise StepError(f"the source tree is in reach: {place}, {path}")


def _install_backend(env: Environment, project: Path, clean: bool) -> None:
    wheels = env.workdir / "wheels"
    wheels.mkdir()
    if clean:
        env.run(env.python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, project)
    else:
        build_wheel(project, wheels)
    (wheel,) = wheels.glob("*.whl")
    env.run(env.python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (project / "scale_tanh.yaml").rename(env.workdir / "scale_tanh.yaml")
    project.rename(env.workdir.parent / "moved-away")


def _types(env: Environment, project: Path, clean: bool) -> None:
    options = ["--strict", f"--python-executable={env.python}", f"--cache-dir={env.workdir / 'types'}"]
    folders = ["src"] if clean else ["src", "tests"]  # pytest comes with the scaffold's extra `test`
    run([sys.executable, "-m", "mypy", *options, *folders], cwd=project)


def _ready(env: Environment) -> None:
    found = {each["name"]: each for each in json.loads(env.run("kevolve", "plugins", "list", "--json"))}
    if {name: each["state"] for name, each in found.items()} != {NAME: "ready"}:
        raise StepError(f"plugins: {found}")


def _conformance(env: Environment, tiers: Sequence[int]) -> None:
    chosen = [word for tier in tiers for word in ("--tier", str(tier))]
    env.run("kevolve", "conformance", NAME, *chosen, "--json", "conformance.json")
    if not json.loads((env.workdir / "conformance.json").read_text())["conformant"]:
        raise StepError((env.workdir / "conformance.json").read_text())


def _evolve(env: Environment, budget: str) -> None:
    words = ["--backend", NAME, "--generator", f"synth+{NAME}", "--budget", budget, "--out", "run"]
    env.run("kevolve", "evolve", "scale_tanh.yaml", *words)
    report = json.loads((env.workdir / "run" / "report.json").read_text())
    if "measured" not in json.dumps(report):
        raise StepError("the report has no measured number")
    accepted = {share["generator"]: share["accepted"] for share in report["shares"]}
    if not accepted.get(NAME):
        raise StepError(f"the scaffold's generator brought no kernel that was accepted: {accepted}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clean", action="store_true", help="take every package from the package index")
    parser.add_argument("--tier", type=int, action="append", default=[], help="0, 1, 2; or as claimed")
    parser.add_argument("--budget", default="4c", help="of the search (4c)")
    parser.add_argument("--types", action="store_true", help="let mypy --strict read the scaffold too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kevolve-vendor-") as folder:
        try:
            seconds = check(
                Path(folder),
                clean=given.clean,
                tiers=given.tier,
                budget=given.budget,
                types=given.types,
                tell=lambda line: print(line, flush=True),
            )
        except StepError as error:
            print(error, file=sys.stderr)
            return 1
    used = os.times()
    print(f"{sum(seconds.values()):7.1f} s  in all")
    print(f"{used.children_user + used.children_system:7.1f} s  of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

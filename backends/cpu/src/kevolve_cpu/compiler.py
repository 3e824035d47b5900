"""Candidates' C++ files to one shared object."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from attrs import field, frozen

from kevolve_core.builds import BuildCache
from kevolve_core.errors import CompileError, KevolveError, StoreError, UnsupportedError
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Target, content_hash
from kevolve_cpu.isa import flags_for
from kevolve_cpu.settings import Settings, available_cpus
from kevolve_cpu.toolchain import BASE_FLAGS, Toolchain, find_toolchain

__all__ = ["LIBRARY", "CppCompiler", "native_files", "trimmed"]

LIBRARY = "kernel.so"
_SOURCE_SUFFIXES = (".cpp", ".cc", ".cxx")
_KEY_VERSION = 1  # raise when what goes into a build changes without its flags changing
_LOG_LINES = 80  # what a reader or a language model still reads of a log; `estimated`


@frozen
class _Run:
    returncode: int | None  # None: ran out of time
    log: str


def native_files(files: Mapping[str, str]) -> tuple[str, ...]:
    """The candidate's translation units, in a fixed order."""
    return tuple(sorted(f for f in files if PurePosixPath(f).suffix in _SOURCE_SUFFIXES))


def trimmed(log: str, lines: int = _LOG_LINES) -> str:
    """The beginning of a compiler's log, where the first errors are, and its last lines."""
    rows = [row[:400] for row in log.splitlines()]
    if len(rows) <= lines:
        return "\n".join(rows)
    tail = lines // 4
    return "\n".join([*rows[: lines - tail], f"… {len(rows) - lines} lines left out …", *rows[-tail:]])


@frozen
class CppCompiler:
    """Builds the C++ files of a candidate, each on its own and at once, and links them into one library.

    The result depends on the files, the flags, the compiler and the architecture only, so one build serves
    every case of a spec. Thread-safe; also between processes that share the cache.
    """

    settings: Settings
    cache: BuildCache = field()

    @cache.default
    def _make_cache(self) -> BuildCache:
        return BuildCache(self.settings.cache, self.settings.cache_bytes)

    def check(self) -> None:
        """Raise `ToolchainMissingError` where there is no compiler."""
        find_toolchain(self.settings)

    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        """See `kevolve_core.interfaces.Compiler.compile`. A candidate without C++ files needs no compiler.

        Raises:
            CompileError: the compiler refused the source, or ran out of time or memory on it; has the log.
            ToolchainMissingError: no compiler.
            UnsupportedError: the compiler of this host makes no code for ``target``.
            StoreError: the cache cannot be written.
        """
        del spec, case
        sources = native_files(candidate.files)
        texts = {name: text for name, text in candidate.files.items() if not name.endswith(".py")}
        if not sources:
            key = content_hash({"version": _KEY_VERSION, "files": texts, "arch": target.arch})
            return Artifact(
                key=key, candidate_id=candidate.id, target=target, facts={"entry": candidate.entry}
            )
        _check_names(texts)
        toolchain = find_toolchain(self.settings)
        flags = self.flags(toolchain, target)
        key = content_hash(
            {
                "version": _KEY_VERSION,
                "files": texts,
                "flags": flags,
                "compiler": toolchain.identity,
                "arch": target.arch,
            }
        )
        entry = self.cache.get(key)
        cached = entry is not None
        if entry is None:
            with self.cache.building(key) as work:
                if work is None:
                    entry, cached = self.cache.path(key), True
                else:
                    facts = self._build(toolchain, flags, texts, sources, work)
                    entry = self.cache.publish(key, work, facts)
        recorded = self.cache.facts(entry)
        return Artifact(
            key=key,
            candidate_id=candidate.id,
            target=target,
            binaries={name: str(entry / LIBRARY) for name in sources},
            facts={"entry": candidate.entry} | {k: v for k, v in recorded.items() if k != "diagnostics"},
            diagnostics=recorded["diagnostics"],
            cached=cached,
        )

    def flags(self, toolchain: Toolchain, target: Target) -> tuple[str, ...]:
        """All flags but file names, in the order they are passed; the user's own come last and win."""
        wanted = tuple(str(o) for o in target.options.get("extensions", ()))
        arch = flags_for(target.arch, wanted)
        if arch is None:
            raise UnsupportedError(
                "this host's compiler makes no code for the target",
                got=target.arch,
                where="cpu backend",
                mend="compile on a machine of that architecture",
            )
        return (*BASE_FLAGS, *toolchain.flags, *toolchain.accepted(arch), *self.settings.flags)

    def _build(
        self,
        toolchain: Toolchain,
        flags: Sequence[str],
        texts: Mapping[str, str],
        sources: Sequence[str],
        work: Path,
    ) -> dict[str, object]:
        start = time.perf_counter()
        tree = work / "src"
        try:
            for name, text in texts.items():
                path = tree / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        except OSError as error:
            raise _unwritable(self.cache.root, error.strerror or str(error)) from error
        deadline = time.monotonic() + self.settings.compile_timeout_s
        common = [toolchain.path, *flags, "-I."]
        link = ["-shared", "-Wl,-z,defs", "-o", str(work / LIBRARY)]
        if len(sources) == 1:
            runs = [self._run([*common, *link, sources[0], "-lm"], tree, deadline)]
        else:
            objects = [f"{index}.o" for index in range(len(sources))]
            commands = [
                [*common, "-c", source, "-o", made] for source, made in zip(sources, objects, strict=True)
            ]
            with ThreadPoolExecutor(min(len(commands), available_cpus())) as pool:
                runs = list(pool.map(lambda command: self._run(command, tree, deadline), commands))
            if all(run.returncode == 0 for run in runs):
                runs.append(self._run([*common, *link, *objects, "-lm"], tree, deadline))
        log = trimmed("\n".join(run.log for run in runs if run.log).strip())
        self._judge(runs, log, sources)
        _remove_tree(tree)
        return {
            "compiler": toolchain.banner,
            "flags": " ".join(flags),
            "compile_seconds": round(time.perf_counter() - start, 4),
            "library_bytes": (work / LIBRARY).stat().st_size,
            "diagnostics": log,
        }

    def _judge(self, runs: Sequence[_Run], log: str, sources: Sequence[str]) -> None:
        where = ", ".join(sources)
        if any(run.returncode is None for run in runs):
            raise CompileError(
                f"compiling did not end within {self.settings.compile_timeout_s:g} s",
                log=log,
                where=where,
                mend="make the source smaller (fewer unrolled or instantiated copies)",
            )
        if all(run.returncode == 0 for run in runs):
            return
        if "No space left on device" in log:
            raise _unwritable(self.cache.root, "No space left on device")
        if "out of memory" in log or "virtual memory exhausted" in log or "bad_alloc" in log:
            raise CompileError(
                f"the compiler ran out of memory ({self.settings.compile_memory_bytes >> 20} MiB allowed)",
                log=log,
                where=where,
                mend="make the source smaller, or raise the option `compile_memory_bytes`",
            )
        errors = [row for row in log.splitlines() if "error:" in row or "undefined reference" in row]
        raise CompileError(
            errors[0].strip() if errors else "the compiler failed without naming an error",
            log=log,
            where=where,
            mend="correct the source; the log has every error",
        )

    def _run(self, command: Sequence[str], folder: Path, deadline: float) -> _Run:
        # The shell sets limits without a preexec function, which is not safe in a process with threads.
        kib = self.settings.compile_memory_bytes >> 10
        limited = ["/bin/sh", "-c", f'ulimit -c 0; ulimit -v {kib}; exec "$@"', "sh", *command]
        # A scrubbed environment: CPATH and its kin would change the result behind the cache's back.
        kept = ("PATH", "LD_LIBRARY_PATH")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"LC_ALL": "C", "TMPDIR": str(folder)}
        process = subprocess.Popen(
            limited,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # the driver's children are in its group, to be killed with it
        )
        try:
            log, _ = process.communicate(timeout=max(0.01, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            log, _ = process.communicate()
            return _Run(None, log)
        except BaseException:
            _kill_group(process.pid)
            process.wait()
            raise
        return _Run(process.returncode, log)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself in the meantime


def _check_names(files: Mapping[str, str]) -> None:
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name.startswith("-"):
            raise KevolveError(
                "a candidate's file names must stay inside its folder",
                got=name,
                where="candidate",
                mend="use a plain relative name such as kernel.cpp",
            )


def _remove_tree(tree: Path) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    tree.rmdir()


def _unwritable(root: Path, reason: str) -> StoreError:
    return StoreError(
        "the compile cache cannot be written",
        got=reason,
        where=str(root),
        mend="free disk space, or name another folder with the option `cache_dir`",
    )

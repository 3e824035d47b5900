"""The compiler: checks the lines of a case, and keeps the program as JSON under its content's hash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kevolve_core.errors import CompileError, UnsupportedError
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Target, content_hash
from kevolve_toy.machine import ALU


class ToyCompiler:
    """See `kevolve_core.interfaces.Compiler`."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        if target.arch != "toy1":
            raise UnsupportedError("the toy's compiler knows one architecture", got=target.arch, mend="toy1")
        program = assemble(candidate.files[candidate.entry], case.name)
        key = content_hash({"program": program, "arch": target.arch})
        path = self.cache / f"{key}.json"
        if not (cached := path.exists()):
            self.cache.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}.{id(program)}")
            scratch.write_text(json.dumps(program))
            scratch.replace(path)
        return Artifact(key, candidate.id, target, {candidate.entry: str(path)}, cached=cached)


def assemble(text: str, case: str) -> dict[str, Any]:
    """The program of ``case``. Raises CompileError with a line a mistake."""
    program: dict[str, Any] = {"entry": "", "buffers": [], "kernels": [], "leaves": [], "structure": 0}
    mistakes, here = [], True
    for number, line in enumerate(text.splitlines(), 1):
        try:
            op, *rest = json.loads(line)
            if op == "case":
                here = rest[0] == case
            elif not here:
                continue
            elif op == "entry":
                program["entry"] = rest[0]
            elif op == "buffer":
                program["buffers"].append(rest)
            elif op == "kernel":
                program["kernels"].append({"loops": rest, "code": []})
            elif op == "return":
                program["structure"], program["leaves"] = rest
            elif op in ALU or op in ("ld", "st", "imm", "red", "jmp"):
                program["kernels"][-1]["code"].append([op, *rest])
            else:
                raise ValueError(f"there is no instruction '{op}'")
        except (ValueError, IndexError, TypeError) as error:
            mistakes.append(f"kernel.toy:{number}: {error}: {line[:80]}")
    if mistakes or not program["leaves"]:
        log = "\n".join(mistakes) or f"kernel.toy: case '{case}' returns nothing"
        raise CompileError(log.splitlines()[0], log=log, mend="see kevolve_toy.machine")
    return program

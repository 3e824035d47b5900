"""The assembler: the text of one case, checked line by line, as JSON under its content's hash."""

from __future__ import annotations

import ast
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from kevolve_core.errors import CompileError, UnsupportedError
from kevolve_core.evaluate.lock import cache_root
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Target, content_hash
from kevolve_toy.machine import ALU, COMBINERS, DTYPES

#: Instruction -> how many operands it has, and which of them are registers that it reads.
_FORMS = {"ld": (4, ()), "st": (4, (3,)), "imm": (3, ()), "idx": (2, ()), "red": (6, (2,)), "jmp": (1, ())}


class ToyCompiler:
    """See `kevolve_core.interfaces.Compiler`."""

    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        del spec
        if target.arch != "toy1":
            raise UnsupportedError("the toy's assembler knows one architecture", got=target.arch, mend="toy1")
        text = candidate.files[candidate.entry]
        program = assemble(text, case.name, candidate.entry)
        key = content_hash({"text": text, "case": case.name, "arch": target.arch, "assembler": 1})
        path = cache_root() / "toy" / f"{key}.json"
        cached = path.exists()
        if not cached:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "w") as file:
                json.dump(program, file)
            os.replace(scratch, path)
        facts = {"instructions": sum(len(kernel["code"]) for kernel in program["kernels"])}
        return Artifact(key, candidate.id, target, {candidate.entry: str(path)}, facts, cached=cached)


def assemble(text: str, case: str, file: str) -> dict[str, Any]:
    """The program of ``case`` (or of ``.case *``). Raises CompileError with one line a mistake."""
    program: dict[str, Any] = {"entry": "", "buffers": {}, "kernels": [], "outputs": [], "structure": "0"}
    mistakes, here, known = [], False, set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition(";")[0].split()
        try:
            match words:
                case []:
                    continue
                case [".entry", name]:
                    program["entry"] = name
                case [".case", name]:
                    here = name in (case, "*")
                case _ if not here:
                    continue
                case [".buffer", name, role, source, dtype, shape]:
                    if dtype not in DTYPES:
                        raise ValueError(f"no element type '{dtype}'")
                    program["buffers"][name] = [role, source, dtype, _numbers(shape)]
                case [".kernel", name, extents, tile, buffers]:
                    known = set()
                    program["kernels"].append({"name": name, "extents": _numbers(extents), "tile": int(tile),
                                               "buffers": int(buffers), "code": []})  # fmt: skip
                case [".output", name, offset, shape, strides]:
                    program["outputs"].append([name, int(offset), _numbers(shape), _numbers(strides)])
                case [".return", *structure]:
                    program["structure"] = repr(ast.literal_eval(" ".join(structure)))
                case _:
                    program["kernels"][-1]["code"].append(_instruction(words, program["buffers"], known))
        except (ValueError, IndexError, KeyError, SyntaxError) as error:
            mistakes.append(f"{file}:{number}: {error}: {line.strip()}")
    if not program["entry"] or not program["outputs"]:
        mistakes.append(f"{file}: no .entry, or no .output for case '{case}'")
    if mistakes:
        raise CompileError(mistakes[0], log="\n".join(mistakes), where=file, mend="see kevolve_toy.machine")
    return program


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.strip("[]").split(",") if n]


def _instruction(words: list[str], buffers: dict[str, Any], known: set[str]) -> list[Any]:
    op, *args = words
    count, reads = _FORMS.get(op, (len(args), tuple(range(2, len(args)))))
    if op not in _FORMS and op not in ALU:
        raise ValueError(f"no instruction '{op}'")
    if len(args) != count or (op == "red" and args[1] not in COMBINERS):
        raise ValueError(f"'{op}' takes {count} operands")
    if op in ("ld", "st") and args[op == "ld"] not in buffers:
        raise ValueError("no such buffer")
    if unset := [args[i] for i in reads if args[i] not in known]:
        raise ValueError(f"register {unset[0]} is read before it is set")
    if op not in ("st", "jmp"):
        known.add(args[0])
    numeric = {"ld": (2,), "st": (1,), "idx": (1,), "jmp": (0,)}.get(op, ())
    lists = {"ld": (3,), "st": (2,), "red": (3,)}.get(op, ())
    return [op, *(int(a) if i in numeric else _numbers(a) if i in lists else a for i, a in enumerate(args))]

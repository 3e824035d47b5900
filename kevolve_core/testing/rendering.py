"""Renderers and schedule spaces: deterministic source, legal defaults, and a clear no to what they cannot
do."""

from __future__ import annotations

import os
from collections.abc import Mapping

from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.interfaces import Backend, Renderer
from kevolve_core.ir import (
    Axis,
    Buffer,
    Index,
    LibraryCall,
    Load,
    LoopNest,
    Operand,
    OutputRef,
    Program,
    Step,
)
from kevolve_core.ir import Store as StoreStatement
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Device
from kevolve_core.serial import to_plain
from kevolve_core.space import Point
from kevolve_core.testing.checks import Check, SkippedError, fail
from kevolve_core.testing.child import run_child
from kevolve_core.testing.numerics import pointwise, printable, programs_of, refusal
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS", "renderable"]

_SYNTH = frozenset({"synth"})
_DTYPE = "kevolve_no_such_dtype"


#: Prints what the check printed, where sets and `hash` have another order.
_ELSEWHERE = """
from kevolve_core.interfaces import BackendRef
from kevolve_core.model import Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain
from kevolve_core.testing.rendering import renderable

backend = load_backend(from_plain(BackendRef, request["ref"]))
spec, programs, renderer, choices = renderable(backend, from_plain(Device, request["device"]))
answer = dict(renderer.render(spec, programs, choices).files)
"""


def renderable(
    backend: Backend, device: Device
) -> tuple[KernelSpec, tuple[Program, ...], Renderer, dict[str, Point]]:
    """A small spec that the first renderer prints, its programs, and the default schedule."""
    for language, renderer in backend.renderers().items():
        found = printable(renderer)
        if found is not None:
            programs = programs_of(found)
            steps = {step.name: step for program in programs for step in program.steps}
            choices: dict[str, Point] = {
                name: backend.schedule_space(step, device, language).default() for name, step in steps.items()
            }
            return found, programs, renderer, choices
    raise SkippedError("no renderer prints the kit's programs: see synth.prints")


def _renderable(subject: Subject) -> tuple[KernelSpec, tuple[Program, ...], Renderer, dict[str, Point]]:
    return renderable(subject.backend, subject.device)


def _renderers(subject: Subject) -> Mapping[str, Renderer]:
    return subject.backend.renderers()


def prints(subject: Subject) -> None:
    """A renderer prints a pointwise kernel for float32, in a language of the manifest."""
    renderers, _ = _renderers(subject), subject.device  # without a device there is nothing to print for
    if unknown := set(renderers) - set(subject.manifest.languages):
        raise fail(
            f"renderers for languages of the manifest: {', '.join(subject.manifest.languages)}",
            got=", ".join(sorted(unknown)),
            where="renderers()",
            mend="declare the language in the manifest",
        )
    for language, renderer in renderers.items():
        if renderer.language != language:
            raise fail(
                f"the renderer of '{language}' to say so",
                got=renderer.language,
                where="Renderer.language",
                mend="return the name it is registered under",
            )
    try:
        spec, programs, renderer, choices = _renderable(subject)
    except SkippedError:
        reasons = [refusal(renderer, pointwise()) for renderer in renderers.values()]
        raise fail(
            "some renderer to print x * 0.5 + 1 for float32",
            got="; ".join(reasons) or "a refusal without a reason",
            where="Renderer.supports",
            mend="support a Store over affine loads with add and mul: the smallest kernel there is",
        ) from None
    made = renderer.render(spec, programs, choices)
    if made.language != renderer.language:
        raise fail(
            f"a candidate in language '{renderer.language}'",
            got=made.language,
            mend="Candidate(…, language=self.language)",
        )


def deterministic(subject: Subject) -> None:
    """The same program and schedule give the same source, by any instance of the renderer in any process."""
    spec, programs, renderer, choices = _renderable(subject)
    first = renderer.render(spec, programs, choices)
    again = _renderers(subject)[renderer.language].render(spec, programs, dict(reversed(choices.items())))
    _same(first.files, again.files)
    request = {"ref": to_plain(subject.ref), "device": to_plain(subject.device)}
    ended = run_child(_ELSEWHERE, request, 300.0, {**os.environ, "PYTHONHASHSEED": "1"})
    if ended.fault:
        raise fail(
            "rendering to succeed in another process, too",
            got=f"the process {ended.fault}\n{ended.printed}",
            where="renderers()",
            mend="use nothing that only this process has",
        )
    _same(first.files, ended.answer)


def _same(first: Mapping[str, str], again: Mapping[str, str]) -> None:
    if dict(first) == dict(again):
        return
    name = next(n for n in (*first, *again) if first.get(n) != again.get(n))
    lines = list(zip(first.get(name, "").splitlines(), again.get(name, "").splitlines(), strict=False))
    differing = next(((a, b) for a, b in lines if a != b), ("", "a missing or longer file"))
    raise fail(
        "rendering to be a function of its arguments",
        got=f"{differing[0].strip()!r}, then {differing[1].strip()!r}",
        where=name,
        mend="no counter that outlives a call, no set's order, no time in names and comments",
    )


def legal(subject: Subject) -> None:
    """Every schedule space has a legal default, and its moves stay legal and render."""
    spec, programs, renderer, choices = _renderable(subject)
    for program in programs:
        for step in program.steps:
            space = subject.backend.schedule_space(step, subject.device, renderer.language)
            default = space.default()
            if not space.is_legal(default):
                broken = space.violated(default)
                raise fail(
                    f"the default point of step '{step.name}' to be legal",
                    got=f"{default} breaks: {broken.text if broken else 'a choice that is not listed'}",
                    where="schedule_space",
                    mend="choose a default that every constraint allows, on every device",
                )
            for point in list(space.neighbours(default))[:3]:
                try:
                    renderer.render(spec, programs, {**choices, step.name: point})
                except KevolveError as error:
                    raise fail(
                        "a legal point to render",
                        got=f"{point}: {error.what}",
                        where=f"step '{step.name}'",
                        mend="declare the limit as a constraint of the space",
                    ) from error


def refuses(subject: Subject) -> None:
    """A renderer says why it cannot print a step, and raises UnsupportedError when it is asked all the
    same."""
    spec = pointwise()
    for renderer in _renderers(subject).values():
        for what, program in _impossible():
            step = program.steps[0]
            try:
                reason = renderer.supports(step)
            except Exception as error:
                raise fail(
                    "supports() to return a reason and never to raise",
                    got=f"{type(error).__name__}: {error}",
                    where=f"{renderer.language}: {what}",
                    mend="return the text of the error",
                ) from error
            if not isinstance(reason, str) or not reason:
                raise fail(
                    f"supports() to refuse {what}",
                    got=repr(reason),
                    where=renderer.language,
                    mend="answer with the reason: what is let through here ends as a wrong kernel",
                )
            try:
                renderer.render(spec, (program,), {})
            except UnsupportedError:
                continue
            except Exception as error:
                raise fail(
                    f"UnsupportedError for {what}",
                    got=f"{type(error).__name__}: {error}",
                    where=renderer.language,
                    mend="check with supports() before printing",
                ) from error
            raise fail(
                f"UnsupportedError for {what}",
                got="source",
                where=renderer.language,
                mend="check with supports() before printing",
            )


def _impossible() -> tuple[tuple[str, Program], ...]:
    """Programs that no renderer can print: of an element type and of a library operator that do not exist."""
    x, y = (Buffer(n, (4,), "float32", role, source="0") for n, role in (("x", "input"), ("y", "output")))
    odd = Load("x", (Index("i"),), _DTYPE)
    nest = LoopNest("odd", (Axis("i", 4),), 1, (StoreStatement("y", (Index("i"),), odd),))
    operand = Operand("x", (4,), (1,))
    call: Step = LibraryCall("odd", "kevolve::no_such_operator", (operand,), "y")
    buffers = {"x": x, "y": y}
    outputs = (OutputRef("y", (4,), (1,)),)
    return (
        ("an element type that does not exist", Program("c", buffers, (nest,), outputs)),
        ("a library operator that does not exist", Program("c", buffers, (call,), outputs)),
    )


CHECKS = (
    Check("synth.prints", prints, (0,), _SYNTH),
    Check("synth.deterministic", deterministic, (0,), _SYNTH),
    Check("synth.legal", legal, (0,), _SYNTH),
    Check("synth.refuses", refuses, (0,), _SYNTH),
)

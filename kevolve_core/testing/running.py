"""The runner's primitives: buffers, transfers, and those that the evaluator leans on for its judgement."""

from __future__ import annotations

from kevolve_core.testing.checks import Check, fail
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool")
_SHAPES = ((), (1,), (1021,), (3, 5), (7, 1, 129), (0, 4))
_BUILT = frozenset({"compile", "run"})

_FAULTS = {
    "flush_cache": "touch at least twice the cache's size, or return at once where there is no cache",
    "poison": "fill about that much free memory with NaN, where the device can",
    "foreign_activity": "report only threads and streams that the language did not declare",
    "counters": "return a mapping of names to numbers, {} for none",
    "reset": "forget the loaded candidate; it may be called when nothing is loaded",
}


def round_trips(subject: Subject) -> None:
    """Upload and download keep every bit, shape and element type, in every layout."""
    found = subject.bench.call("round_trips", dtypes=_DTYPES, shapes=_SHAPES)
    if "float32" in found["unsupported"]:
        raise fail(
            "float32 to be supported", got="UnsupportedError", where="Runner.upload", mend="support float32"
        )
    if found["wrong"]:
        raise fail(
            "what was uploaded to come back by download, as a CPU tensor",
            got="; ".join(found["wrong"]),
            where="Runner.upload, Runner.download",
            mend="keep dtype, shape and strides; raise UnsupportedError for an element type the device lacks",
        )


def copied(subject: Subject) -> None:
    """A device buffer is a copy: it does not change with the tensor it was made from."""
    found = subject.bench.call("round_trips", dtypes=("float32", "int64"), shapes=((64,), (3, 5)))
    if found["aliased"]:
        raise fail(
            "a buffer that is a copy of its tensor, at a new address",
            got=f"it follows the tensor: {', '.join(found['aliased'])}",
            where="Runner.upload",
            mend="copy in upload(): otherwise a kernel that writes into its input writes into the "
            "reference's",
        )


def copies(subject: Subject) -> None:
    """The copy probe, loaded and called through the runner alone, copies into a buffer of its own."""
    if wrong := subject.bench.call("copies", key="copy"):
        raise fail(
            "the copy probe's output to equal its argument after synchronize",
            got="; ".join(wrong),
            where="Runner.load, the probe's call, Runner.download",
            mend="return a new device buffer of the argument's shape, which download() turns into a CPU "
            "tensor",
        )
    if subject.bench.call("answers_itself"):
        raise fail(
            "the output of a kernel to be a buffer of its own",
            got="the empty probe, which writes nothing, gives back its argument",
            where="Runner.load, the probe's call",
            mend="allocate outputs: what shares its memory with an input changes with it, and a copy that "
            "copies nothing passes for one",
        )


def primitives(subject: Subject) -> None:
    """flush_cache, poison, counters, foreign_activity, to_device and reset answer as the contract says."""
    answers = subject.bench.call("primitives")
    for name, fault in answers.items():
        if fault:
            raise fail(
                f"{name}() to answer as the contract says",
                got=fault,
                where=f"Runner.{name}",
                mend=_FAULTS.get(name, "see kevolve_core.interfaces.Runner"),
            )


def poisoned(subject: Subject) -> None:
    """A kernel that writes nothing does not find an earlier result in its output."""
    share = subject.bench.call("stale")["share"]
    if share > 0.5:
        raise fail(
            "poison() to overwrite free memory, so that stale results are not found there",
            got=f"{share:.0%} of the empty probe's output is the result of an earlier copy",
            where="Runner.poison",
            mend="allocate about that many bytes the way outputs are allocated, fill them with NaN, free "
            "them",
        )


CHECKS = (
    Check("buffers.round_trip", round_trips, (1, 2), _BUILT),
    Check("buffers.copied", copied, (1, 2), _BUILT),
    Check("runner.copies", copies, (1, 2), _BUILT),
    Check("runner.primitives", primitives, (1, 2), _BUILT),
    Check("runner.poison", poisoned, (1, 2), _BUILT),
)

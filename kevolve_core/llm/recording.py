"""A run as one text file: what was asked and answered, how candidates were judged, and the way it took.

A run's folder has all of that too; the file is for keeping (in a repository, in CI). One JSON object a line,
gzipped where the name ends in ``.gz``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen

from kevolve_core.errors import StoreError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.llm.journal import Call, Journal
from kevolve_core.llm.ledger import Cost
from kevolve_core.llm.model import Message, Reply, Request
from kevolve_core.model import Candidate, Device, Evaluation, Ratio
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.store import RunStore
from kevolve_core.store.faults import damaged, guarded

__all__ = ["Comparison", "Recording", "pack", "unpack"]

_VERSION = 1
_PHASES = ("search", "race", "confirm")


@frozen
class Comparison:
    """The run's winner timed against one more kernel, call by call in turns.

    Args:
        name: what the other kernel is, in words.
        other: the kernel.
        evaluation: the winner's, with ``other`` among its baselines.
    """

    name: str
    other: Candidate
    evaluation: Evaluation

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """Time of the other over time of the winner, a timed case each; empty where it was not accepted."""
        found = (m.ratios.get(f"seed {self.other.id}") for m in self.evaluation.measurements)
        return tuple(ratio for ratio in found if ratio is not None) if self.evaluation.accepted else ()


@frozen
class Recording:
    """What a replay needs.

    Args:
        spec: what was computed.
        device: as the prompts describe it.
        settings: the run's own, with the generator's options.
        search: the loop's.
        calls: every request with its reply or fault.
        pages: file name -> content of the pages that prompts showed.
        proposals: candidates in the order of their sequence; None where there was none.
        evaluations: phase -> candidate's id -> its paid evaluation.
        comparisons: of the winner with kernels that took no part in the search; made by whoever recorded it.
    """

    spec: KernelSpec
    device: Device | None
    settings: Mapping[str, Any]
    search: Mapping[str, Any]
    calls: tuple[Call, ...]
    pages: Mapping[str, str]
    proposals: tuple[Candidate | None, ...]
    evaluations: Mapping[str, Mapping[str, Evaluation]]
    comparisons: tuple[Comparison, ...] = ()

    def write_journal(self, run: Path) -> None:
        """Lay the calls, the pages and the device out in ``run`` as a run has them."""
        journal = Journal(run)
        for call in self.calls:
            journal.record(call)
        texts = {f"pages/{name}": text for name, text in self.pages.items()}
        if self.device is not None:
            texts["device.json"] = json.dumps(to_plain(self.device))
        for name, text in texts.items():
            file = run / "llm" / name
            with guarded(str(file)):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")


def of_run(run: Path) -> Recording:
    """The recording of a run's folder. Raises StoreError where there is none, or it never began."""
    with RunStore.open_readonly(run) as store:
        info = store.info()
        if info.search is None:
            raise StoreError("this run never began, so there is nothing to replay", where=str(run))
        proposals: list[Candidate | None] = []
        found: dict[str, dict[str, Evaluation]] = {phase: {} for phase in _PHASES}
        for step in store.steps():
            candidate_id = step.proposal.candidate_id
            proposals.append(None if candidate_id is None else store.candidate(candidate_id))
            if step.evaluation is not None and step.evaluation.reused_from is None:
                _add(store, found, "search", step.proposal.sequence)
        for phase in _PHASES[1:]:
            for row in store.evaluation_rows(phase):
                _add(store, found, phase, row.sequence)
        folder = run / "llm"
        device = folder / "device.json"
        return Recording(
            spec=store.spec,
            device=from_plain(Device, json.loads(device.read_text())) if device.exists() else None,
            settings=dict(info.settings),
            search=dict(info.search),
            calls=tuple(Journal(run).calls()),
            pages={file.name: file.read_text() for file in sorted(folder.glob("pages/*.json"))},
            proposals=tuple(proposals),
            evaluations=found,
        )


def _add(store: RunStore, found: dict[str, dict[str, Evaluation]], phase: str, sequence: int) -> None:
    evaluation = store.evaluation(phase, sequence)
    if evaluation is not None:
        found[phase][evaluation.candidate_id] = evaluation


def pack(recording: Recording, file: Path) -> None:
    """Write ``recording`` as a file. Folders that the reference imports from are of one machine: no
    replay runs the reference, so they are left out."""
    spec = evolve(recording.spec, reference=evolve(recording.spec.reference, search_path=()))
    head = {
        "kevolve-recording": _VERSION,
        "spec": to_plain(spec),
        "device": None if recording.device is None else to_plain(recording.device),
        "settings": dict(recording.settings),
        "search": dict(recording.search),
    }
    lines: list[dict[str, Any]] = [head]
    lines += [{"call": _plain(call)} for call in recording.calls]
    lines += [{"page": name, "text": text} for name, text in recording.pages.items()]
    lines += [{"proposal": None if c is None else to_plain(c)} for c in recording.proposals]
    for phase, evaluations in recording.evaluations.items():
        lines += [{"evaluation": phase, "of": to_plain(e)} for e in evaluations.values()]
    lines += [{"comparison": to_plain(each)} for each in recording.comparisons]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with guarded(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        # No time in the header: equal recordings are equal files.
        file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)


def unpack(source: Path) -> Recording:
    """The recording in a file, or of a run's folder.

    Raises:
        StoreError: it is neither, is damaged, or is of another version.
    """
    if source.is_dir():
        return of_run(source)
    if not source.is_file():
        raise StoreError(
            "there is no recording here", got=str(source), mend="name a run's folder or a recording's file"
        )
    try:
        lines = list(_lines(source))
        head = lines[0] if lines else {}
        if head.get("kevolve-recording") != _VERSION:
            raise StoreError(
                "this is no recording that this Kevolve reads",
                got=head.get("kevolve-recording"),
                where=str(source),
                mend="name a run's folder, or a file that `kevolve replay RUN --pack FILE` wrote",
            )
        evaluations: dict[str, dict[str, Evaluation]] = {phase: {} for phase in _PHASES}
        for line in lines:
            if "evaluation" in line:
                evaluation = from_plain(Evaluation, line["of"])
                evaluations[line["evaluation"]][evaluation.candidate_id] = evaluation
        return Recording(
            spec=from_plain(KernelSpec, head["spec"]),
            device=None if head["device"] is None else from_plain(Device, head["device"]),
            settings=head["settings"],
            search=head["search"],
            calls=tuple(_call(line["call"]) for line in lines if "call" in line),
            pages={line["page"]: line["text"] for line in lines if "page" in line},
            proposals=tuple(_candidate(line["proposal"]) for line in lines if "proposal" in line),
            evaluations=evaluations,
            comparisons=tuple(
                from_plain(Comparison, line["comparison"]) for line in lines if "comparison" in line
            ),
        )
    except StoreError:
        raise
    except Exception as error:  # gzip, json, cattrs' groups: whatever a damaged file makes of them
        raise damaged("the recording cannot be read", str(source), error) from error


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    data = file.read_bytes()
    text = gzip.decompress(data).decode() if data[:2] == b"\x1f\x8b" else data.decode()
    for line in text.splitlines():
        if line.strip():
            yield json.loads(line)


def _candidate(plain: Any) -> Candidate | None:
    return None if plain is None else from_plain(Candidate, plain)


def _plain(call: Call) -> dict[str, Any]:
    request = asdict(call.request, recurse=False) | {
        "messages": [[m.role, m.content] for m in call.request.messages],
        "extra": dict(call.request.extra),
        "taint": sorted(call.request.taint),
    }
    return {
        "key": call.key,
        "role": call.role,
        "request": request,
        "reply": None if call.reply is None else asdict(call.reply),
        "cost": asdict(call.cost),
        "fault": None if call.fault is None else dict(call.fault),
        "about": dict(call.about),
        "seconds": call.seconds,
    }


def _call(plain: Mapping[str, Any]) -> Call:
    request = dict(plain["request"])
    messages = tuple(Message(role, text) for role, text in request.pop("messages"))
    made = Request(messages=messages, taint=frozenset(request.pop("taint")), **request)
    return Call(
        key=plain["key"],
        request=made,
        role=plain["role"],
        reply=None if plain["reply"] is None else Reply(**plain["reply"]),
        cost=Cost(**plain["cost"]),
        fault=plain["fault"],
        about=plain["about"],
        seconds=plain.get("seconds", 0.0),
    )

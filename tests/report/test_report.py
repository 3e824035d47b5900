"""What a report says, and what it refuses to say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from kevolve_core.errors import KevolveError, StoreError
from kevolve_core.model import Evaluation, Evidence, Verdict, VerdictKind
from kevolve_core.report import (
    document,
    format_seconds,
    headline,
    markdown,
    overall_speedup,
    write_report,
)
from tests.report.records import BASELINE, accepted, case, measurement, record, spec


def evaluation(*measurements: Any) -> Evaluation:
    return attrs.evolve(accepted(0, 2.0), measurements=measurements)


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from dicts(inner)


def test_every_number_of_the_document_with_a_value_names_its_evidence() -> None:
    numbers = [d for d in dicts(document(record())) if "unit" in d]
    assert len(numbers) > 5
    assert [d for d in numbers if d.get("evidence") not in set(Evidence)] == []


def test_every_score_of_the_trajectory_names_its_evidence() -> None:
    scored = [p for p in document(record())["trajectory"] if p["score"] is not None]
    assert {p["evidence"] for p in scored} == {"measured"}


def test_the_document_is_json_without_nan() -> None:
    text = json.dumps(document(record()), allow_nan=False)
    assert json.loads(text)["improved"] is True


def test_the_speedup_of_one_case_is_its_own_ratio() -> None:
    speedup = overall_speedup(spec(case("a")), evaluation(measurement("a", 2.0)))
    assert speedup is not None
    assert (speedup.ratio.value, speedup.ratio.low, speedup.ratio.high) == pytest.approx((2.0, 1.96, 2.04))


def test_the_speedup_of_several_cases_is_their_weighted_geomean() -> None:
    two = spec(case("a", weight=3.0), case("b", weight=1.0))
    speedup = overall_speedup(two, evaluation(measurement("a", 2.0), measurement("b", 4.0)))
    assert speedup is not None
    assert speedup.ratio.value == pytest.approx(math.exp((3 * math.log(2) + math.log(4)) / 4))


def test_independent_cases_narrow_the_interval() -> None:
    two = spec(case("a"), case("b"))
    speedup = overall_speedup(two, evaluation(measurement("a", 2.0), measurement("b", 2.0)))
    assert speedup is not None
    assert math.log(speedup.ratio.high / 2.0) == pytest.approx(math.log(1.02) / math.sqrt(2))


def test_the_most_trustworthy_phase_is_used() -> None:
    both = evaluation(measurement("a", 2.0, phase="confirm"), measurement("a", 3.0, phase="quick"))
    speedup = overall_speedup(spec(case("a")), both)
    assert speedup is not None
    assert (speedup.phase, speedup.ratio.value) == ("confirm", 2.0)


def test_a_phase_that_lacks_a_case_gives_no_speedup() -> None:
    assert overall_speedup(spec(case("a"), case("b")), evaluation(measurement("a"))) is None


def test_a_rejected_candidate_has_no_speedup() -> None:
    rejected = attrs.evolve(evaluation(measurement("a")), verdict=Verdict(VerdictKind.WRONG_RESULT))
    assert overall_speedup(spec(case("a")), rejected) is None


@pytest.mark.parametrize("other", [{"evidence": Evidence.SIMULATED}, {"device": "toy:1 Toy 9000"}])
def test_no_speedup_across_evidence_or_devices(other: dict[str, Any]) -> None:
    mixed = evaluation(measurement("a"), measurement("b", **other))
    with pytest.raises(KevolveError, match="one device and of one evidence"):
        overall_speedup(spec(case("a"), case("b")), mixed)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.124e-7, "812 ns"),
        (1.312e-5, "13.1 µs"),
        (0.00452, "4.52 ms"),
        (1.2, "1.20 s"),
        (9.996e-4, "1.00 ms"),
    ],
)
def test_seconds_are_shown_in_three_digits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_headline_names_ratio_interval_evidence_baseline_and_device() -> None:
    assert headline(record()) == "2.00x [1.96, 2.04] measured over compiled on Toy 9000"


def test_a_run_that_beat_nothing_says_so() -> None:
    page = markdown(record(improved=False), kernel="kernel.py", picture="progress.png")
    assert "None of 40 candidates is surely faster than the fastest baseline (compiled)" in page
    assert "it is the fastest baseline, unchanged" in page


def test_an_unconfirmed_best_is_called_so() -> None:
    full = record()
    running = attrs.evolve(full, result=attrs.evolve(full.result, confirmed=False))
    assert headline(running).endswith("not yet confirmed")


def test_a_degenerate_spec_is_marked() -> None:
    page = markdown(attrs.evolve(record(), degenerate=True), kernel="k", picture="p")
    assert "belongs in no aggregate" in page


def test_a_reason_cannot_break_the_table_of_failures() -> None:
    page = markdown(record(), kernel="k", picture="p")
    (line,) = [row for row in page.splitlines() if row.startswith("| compile error")]
    assert line.replace("\\|", "").count("|") == 4


def test_a_report_is_five_files_and_the_picture_is_a_picture(tmp_path: Path) -> None:
    paths = write_report(record(), tmp_path / "out", "text = 1\n")
    assert sorted(p.name for p in paths.folder.iterdir()) == [
        "kernel", "kernel.py", "progress.png", "report.json", "report.md",
    ]  # fmt: skip
    assert paths.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert paths.kernel.read_text() == "text = 1\n"


def test_a_new_best_replaces_the_files_of_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    paths = write_report(record(), tmp_path, "")
    (paths.candidate / "mine.txt").write_text("notes")
    write_report(attrs.evolve(record(improved=False), kernel=BASELINE), tmp_path, "")
    assert sorted(p.name for p in paths.candidate.iterdir()) == ["mine.txt", "reference.py"]


def test_a_candidate_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    evil = attrs.evolve(BASELINE, files={"../evil.py": "", "reference.py": ""})
    with pytest.raises(KevolveError, match="inside its folder"):
        write_report(attrs.evolve(record(), kernel=evil), tmp_path / "out", "")
    assert not (tmp_path / "out" / "evil.py").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="report cannot be written"):
        write_report(record(), tmp_path / "file" / "out", "")

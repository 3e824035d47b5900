"""Round trips of the contract's data classes through JSON."""

from kevolve_core.kernelspec import Case, Distribution, InputSpec, KernelSpec, Precision, Reference
from kevolve_core.model import (
    Candidate,
    Evaluation,
    Evidence,
    Measurement,
    Origin,
    Profile,
    Ratio,
    Roofline,
    StageRecord,
    Verdict,
    VerdictKind,
)
from kevolve_core.serial import dumps, loads

CANDIDATE = Candidate(
    files={"kernel.py": "def f(x): return x"},
    entry="kernel.py",
    language="cpp",
    parents=("abc",),
    genome={"steps": {"k0": {"threads": 2}}},
    origin=Origin("synth", "mutate", {"move": "split"}),
)


def test_a_candidate_survives_json() -> None:
    again = loads(Candidate, dumps(CANDIDATE))
    assert (again, again.id, again.origin, again.genome) == (
        CANDIDATE,
        CANDIDATE.id,
        CANDIDATE.origin,
        CANDIDATE.genome,
    )


def test_an_evaluation_survives_json() -> None:
    measurement = Measurement(
        case="a",
        device="cpu:0",
        evidence=Evidence.MEASURED,
        phase="race",
        candidate=(1e-3, 2e-3),
        baselines={"eager": (2e-3, 3e-3)},
        ratios={"eager": Ratio(1.5, 1.4, 1.6, 2)},
        best_baseline="eager",
    )
    evaluation = Evaluation(
        candidate_id="x",
        verdict=Verdict(VerdictKind.WRONG_RESULT, "off", "cases", {"index": [1, 2]}),
        stages=(StageRecord("rules", 0.1, "passed"),),
        measurements=(measurement,),
        profile=Profile(Evidence.MEASURED, {"bytes": 1.0}, Roofline(1, 2, 3, 4, 5, 0.5), "memory", ("h",)),
    )
    again = loads(Evaluation, dumps(evaluation))
    assert again == evaluation
    assert again.measurements[0].best_ratio == Ratio(1.5, 1.4, 1.6, 2)
    assert dict(again.verdict.detail) == {"index": [1, 2]}


def test_a_spec_survives_json_with_its_fingerprint() -> None:
    spec = KernelSpec(
        name="s",
        reference=Reference("def f(x): return x", "f", init={"n": 3}),
        cases=(Case("a", (InputSpec("x", (2, 3), distribution=Distribution("uniform", 0, 1)),)),),
        precision=Precision("relaxed", 1e-3, 1e-3),
        seeds=(CANDIDATE,),
    )
    again = loads(KernelSpec, dumps(spec))
    assert again == spec
    assert again.fingerprint == spec.fingerprint

"""What language models did in a run, for its report: requests, costs, faults, what prompts left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kevolve_core.llm.journal import Journal

__all__ = ["summary"]


def summary(run: Path) -> dict[str, Any]:
    """JSON values, {} where no model was asked: by model and role the requests, tokens and money; parts of
    prompts by why they were left out; malformed replies by what was wrong. Reads the run's folder only."""
    if not (run / "llm" / "calls").is_dir():
        return {}
    journal = Journal(run)
    models: dict[tuple[str, str], dict[str, Any]] = {}
    left: Counter[tuple[str, str]] = Counter()
    faults: Counter[str] = Counter()
    malformed: Counter[str] = Counter()
    tainted = 0
    for call in journal.calls():
        name = f"{call.request.provider}:{call.request.model}"
        row = models.setdefault((name, call.role), {"requests": 0, "tokens": 0, "money": 0.0, "estimated": 0})
        row["requests"] += 1
        row["tokens"] += call.cost.tokens
        row["money"] += call.cost.money
        row["estimated"] += call.reply is not None and not call.reply.counted
        tainted += bool(call.request.taint)
        if call.fault is not None:
            faults[str(call.fault.get("kind") or call.fault.get("limit") or call.fault.get("type"))] += 1
        if call.role == "mend":
            malformed[str(call.about.get("problem", ""))[:120]] += 1
        else:
            left.update(_part(each) for each in call.about.get("left_out", ()))
    lost = journal.lost("*")
    return {
        "models": [{"model": m, "role": role, **row} for (m, role), row in sorted(models.items())],
        "left_out": [{"part": p, "why": why, "prompts": n} for (p, why), n in sorted(left.items())],
        "faults": dict(faults),
        "malformed": dict(malformed),
        "tainted_requests": tainted,
        "lost": {"tokens": lost.tokens, "money": lost.money},
    }


def _part(text: str) -> tuple[str, str]:
    """``knowledge: TITLE (budget)`` to the kind of part and the reason."""
    name, _, why = text.rpartition(" (")
    kind = "sibling" if name.startswith("sibling ") else name
    return kind, why.rstrip(")")

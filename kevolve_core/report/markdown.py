"""``report.md``: a run on one page for people."""

from __future__ import annotations

from statistics import median

from kevolve_core.kernelspec import Case
from kevolve_core.model import Evaluation, Evidence, Measurement, Profile
from kevolve_core.report.numbers import Speedup, format_ratio, format_seconds, overall_speedup
from kevolve_core.report.record import RunRecord

__all__ = ["headline", "markdown"]


def headline(record: RunRecord) -> str:
    """The result in one sentence, with evidence."""
    speedup = overall_speedup(record.spec, record.evaluation) if record.evaluation else None
    tried = f"{record.result.evaluations} candidates"
    if speedup is None:
        return f"None of {tried} beat the fastest baseline; the kernel is the baseline."
    shown = format_ratio(speedup.ratio, speedup.evidence)
    against = " and ".join(dict.fromkeys(speedup.against))
    if not record.improved:
        return (
            f"None of {tried} is surely faster than the fastest baseline ({against}); the best reached "
            f"{shown}. The kernel is the baseline."
        )
    unconfirmed = "" if record.result.confirmed else f", {speedup.phase} timing, not yet confirmed"
    return f"{shown} over {against} on {record.device.name}{unconfirmed}"


def markdown(record: RunRecord, *, kernel: str, picture: str) -> str:
    """The page. ``kernel`` and ``picture`` are the names of the files beside it."""
    sections = [
        f"# {record.spec.name}",
        f"**{headline(record)}**",
        _notes(record),
        f"![Best speed-up so far over search time]({picture})",
        _timing(record, record.evaluation) if record.evaluation else "",
        _kernel(record, kernel),
        _profile(record.evaluation.profile)
        if record.improved and record.evaluation and record.evaluation.profile
        else "",
        _search(record),
        _shares(record),
        _models(record),
        _controls(record),
        _failures(record),
        _environment(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _notes(record: RunRecord) -> str:
    if not record.degenerate:
        return ""
    return (
        "> **Degenerate spec.** Its oracle accepts trivial answers, so acceptance proves little. "
        "This result belongs in no aggregate."
    )


def _timing(record: RunRecord, evaluation: Evaluation) -> str:
    subject = "kernel" if record.improved else "best candidate"
    lines = [
        "## Time per call",
        "",
        "Median of interleaved calls with fresh data and flushed caches; speed-ups are paired, with 95 % "
        "bootstrap intervals.",
        "",
        f"| case | implementation | time | evidence | speed-up of the {subject} over it |",
        "|---|---|---|---|---|",
    ]
    before = len(lines)
    for case in record.spec.cases:
        m = evaluation.measurement(case.name, "confirm") or evaluation.measurement(case.name)
        if m is not None:
            lines += _timing_rows(m, case, subject)
    return "\n".join(lines) if len(lines) > before else ""


def _timing_rows(m: Measurement, case: Case, subject: str) -> list[str]:
    evidence = m.evidence.value
    phase = "" if m.phase == "confirm" else f", {m.phase} only"
    label = f"{case.name} ({case.role}{phase})"
    rows = [f"| {label} | **{subject}** | {format_seconds(median(m.candidate))} | {evidence} | |"]
    for name, samples in sorted(m.baselines.items(), key=lambda item: median(item[1])):
        ratio = m.ratios.get(name)
        fastest = " (fastest baseline)" if name == m.best_baseline else ""
        shown = format_ratio(ratio, m.evidence) if ratio else "not comparable"
        rows.append(f"| | {name}{fastest} | {format_seconds(median(samples))} | {evidence} | {shown} |")
    if m.floor_seconds:
        rows.append(
            f"| | floor: compulsory traffic | {format_seconds(m.floor_seconds)} "
            f"| {Evidence.ESTIMATED.value} | |"
        )
    return rows


def _kernel(record: RunRecord, file: str) -> str:
    kernel = record.kernel
    lines = ["## Kernel", "", f"- file: [`{file}`]({file}), language {kernel.language}, id `{kernel.id}`"]
    if not record.improved or record.evaluation is None:
        return "\n".join([*lines, "- it is the fastest baseline, unchanged"])
    seen = record.evaluation.library_calls
    libraries = ", ".join(f"`{name}`" for name in dict.fromkeys([*kernel.libraries, *seen])) or "none"
    rewrites = kernel.origin.notes.get("rewrites", "")
    checked = ", ".join(case.name for case in record.spec.cases) if record.result.confirmed else "not yet"
    return "\n".join(
        [
            *lines,
            f"- made by: {kernel.origin.generator}, {kernel.origin.operator}",
            f"- library calls: {libraries}",
            *([f"- rewrites of its graph: {rewrites}"] if rewrites else []),
            *(f"- {name}: {text}" for name, text in record.evaluation.remarks.items()),
            f"- confirmed on: {checked} (precision policy: {record.spec.precision.policy})",
            f"- input seed, disclosed with the verdict: {record.evaluation.seed}",
        ]
    )


def _profile(profile: Profile) -> str:
    lines = ["## Profile", "", f"- bottleneck: {profile.bottleneck} ({profile.evidence.value})"]
    if (roof := profile.roofline) is not None:
        lines.append(
            f"- roofline: {roof.fraction:.0%} of the bound of {format_seconds(roof.bound_seconds)} "
            f"({roof.bytes / 1e6:.4g} MB at {roof.peak_bytes_per_s / 1e9:.4g} GB/s, "
            f"{roof.flops / 1e6:.4g} MFLOP at {roof.peak_flops_per_s / 1e9:.4g} GFLOP/s; "
            f"{profile.evidence.value})"
        )
    lines += [f"- {hint}" for hint in profile.hints]
    return "\n".join(lines)


def _search(record: RunRecord) -> str:
    result, settings = record.result, record.settings
    asked = [f"{settings[key]} {key}" for key in ("generator", "policy") if settings.get(key)]
    asked += [f"seed {settings['seed']}"] if "seed" in settings else []
    ended = f"- ended by: {result.stopped}" if result.stopped else "- not ended"
    lines = [
        "## Search",
        "",
        f"- {', '.join(asked)}" if asked else "",
        f"{ended}, {result.seconds:.1f} s in all ({Evidence.MEASURED.value}): "
        f"{result.evaluations} candidates evaluated, {record.accepted} accepted, "
        f"{result.duplicates} duplicates",
    ]
    if (at := result.best_at) is not None:
        lines.append(
            f"- until the best: {at.seconds:.1f} s ({Evidence.MEASURED.value}), {at.evaluations} "
            f"evaluations, {at.tokens} tokens, cost {at.money:.2f}"
        )
    return "\n".join(line for i, line in enumerate(lines) if line or i == 1)


def _shares(record: RunRecord) -> str:
    """Lanes of memory and generators of a mix, each with what it brought."""
    shares = record.result.shares
    if len(shares) < 2:
        return ""
    rows = [
        f"| {' '.join(filter(None, (s.lane, s.generator)))} | {s.proposals} | {s.accepted} | {s.failed} "
        f"| {'-' if s.best is None else f'{s.best:.2f}×'} | {'-' if s.best_at is None else s.best_at} |"
        for s in shares
    ]
    head = "| lane and generator | proposals | accepted | failed | best, quick timing | found at |"
    return "\n".join(["## Who brought what", "", head, "|---|---|---|---|---|---|", *rows])


def _models(record: RunRecord) -> str:
    """Who wrote, what it cost, and what the prompts had to leave out."""
    found = record.models
    if not found:
        return ""
    lines = ["## Language models", "", "| model | role | requests | tokens | cost |", "|---|---|---|---|---|"]
    for row in found["models"]:
        estimated = f" ({row['estimated']} requests estimated)" if row["estimated"] else ""
        lines.append(
            f"| {_cell(row['model'])} | {row['role']} | {row['requests']} | {row['tokens']}{estimated} "
            f"| {row['money']:.4f} |"
        )
    lines.append("")
    for part in found["left_out"]:
        why = {"budget": "did not fit", "shortened": "was shortened", "confidential": "was withheld"}
        lines.append(
            f"- {_cell(part['part'])} {why.get(part['why'], part['why'])}: {part['prompts']} prompts"
        )
    if found["malformed"]:
        lines.append(f"- malformed replies, asked about once more: {sum(found['malformed'].values())}")
    lines += [f"- faults ({kind}): {count}" for kind, count in sorted(found["faults"].items())]
    if found["tainted_requests"]:
        lines.append(f"- requests that derive from confidential material: {found['tainted_requests']}")
    if found["lost"]["tokens"]:
        lines.append(f"- attempts without a reply, at most: {found['lost']['tokens']} tokens (estimated)")
    return "\n".join(lines).rstrip()


def _controls(record: RunRecord) -> str:
    if not record.controls:
        return ""
    own = overall_speedup(record.spec, record.evaluation) if record.evaluation else None
    lines = [
        "## Controls",
        "",
        "The same number of evaluations without search: random search draws uniformly from the generator's "
        "choices, independent sampling takes its drafts.",
        "",
        "| | evaluations | best | search against it |",
        "|---|---|---|---|",
        f"| search | {record.result.evaluations} | {_shown(own)} | |",
    ]
    for control in record.controls:
        unfinished = "" if control.finished else ", not finished"
        unfinished = ", ended by the run's cap" if control.capped else unfinished
        lines.append(
            f"| {control.name} | {control.evaluations}{unfinished} | {_shown(control.speedup)} "
            f"| {control.against(own)} |"
        )
    return "\n".join(lines)


def _shown(speedup: Speedup | None) -> str:
    return (
        "nothing accepted"
        if speedup is None
        else f"{format_ratio(speedup.ratio, speedup.evidence)}, {speedup.phase}"
    )


def _failures(record: RunRecord) -> str:
    if not record.failures:
        return ""
    rows = [
        f"| {kind.replace('_', ' ')} | {count} | {_cell(record.examples.get(kind, ''))} |"
        for kind, count in record.failures.items()
    ]
    return "\n".join(["## Failures", "", "| kind | candidates | the first one |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    """One line of at most 160 characters that cannot end a table cell."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 160 else line[:159] + "…"


def _environment(record: RunRecord) -> str:
    env = record.environment
    lines = ["## Environment", "", f"- device: {record.device.name} (`{record.device.id}`, "
             f"{record.device.target.arch})"]  # fmt: skip
    lines += [f"- {key}: {env[key]}" for key in ("date", "platform", "python") if key in env]
    lines += [f"- {name} {version}" for name, version in dict(env.get("versions", {})).items()]
    return "\n".join(lines)

"""Every broken backend, the check meant for it, and what else fails with it.

python tests/meta/cases.py            # prints the table
python tests/meta/cases.py --run      # runs every check on every one, and says where the table is wrong
python tests/meta/cases.py --write    # writes docs/reference/broken_backends.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attrs import frozen

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "reference" / "broken_backends.md"
TOY = ROOT / "tests" / "toy_accelerator" / "src"


@frozen
class Broken:
    """One broken backend.

    Args:
        name: attribute of `broken`, or a module of ``at_import``.
        what: what is wrong with it, in words.
        check: the check meant for it.
        also: collateral: other checks that it fails, and why they must.
        tier: the tier of all of them.
        isolated: device primitives run in a worker process, as they do for a vendor.
    """

    name: str
    what: str
    check: str
    also: tuple[str, ...] = ()
    tier: int = 0
    isolated: bool = False

    @property
    def plugin(self) -> str:
        at_import = HERE / "at_import" / f"{self.name}.py"
        return str(at_import) if at_import.exists() else f"{HERE / 'broken.py'}:{self.name}"


CASES = (
    Broken(
        "vendor_library",
        "imports the vendor's library at its top",
        "import.clean",
        ("probe.isolated",),
    ),
    Broken(
        "guarded_library", "imports the vendor's library at its top where it is installed", "import.clean"
    ),
    Broken("shared_library", "opens a shared library at its top", "import.clean"),
    Broken("starts_process", "starts a process at its top", "import.clean"),
    Broken("hanging_probe", "a driver call hangs in the probe", "probe.isolated"),
    Broken("crashing_probe", "the probe segfaults", "probe.isolated"),
    Broken("raising_probe", "the probe raises", "probe.isolated"),
    Broken("probe_needs_tool", "the probe raises where its tool is not installed", "probe.bare"),
    Broken("boasting_probe", "a device claims more than the manifest", "probe.truthful"),
    Broken("shuffling_probe", "ids of devices change from probe to probe", "probe.truthful"),
    Broken("guessed_evidence", "a class of evidence of its own", "manifest.valid"),
    Broken(
        "undeclared_profiler",
        "a profiler answers that is not declared",
        "capabilities.undeclared",
        ("probe.truthful",),
    ),
    Broken("absent_profiler", "a profiler is declared and absent", "capabilities.undeclared"),
    Broken("nobodys_baseline", "a baseline's factory does not exist", "baselines.importable"),
    Broken("bound_loader", "exported kernels need the plugin", "standalone.loader"),
    Broken("no_probes", "supplies no probe kernels", "probes.supplied"),
    Broken("no_pages", "has no knowledge pages", "knowledge.pages"),
    Broken("bare_pages", "a knowledge page has no front matter", "knowledge.pages"),
    Broken("wrong_binaries", "names binaries by relative paths", "compile.accepts"),
    Broken("swallows_errors", "gives an artefact for source that does not compile", "compile.refuses"),
    Broken("silent_log", "a compile error without the compiler's log", "compile.refuses"),
    Broken("raises_anything", "a compile error of another class", "compile.refuses"),
    Broken("missing_tool_escapes", "a missing tool is a FileNotFoundError", "compile.toolchain"),
    Broken("ignores_target", "compiles for the machine at hand, whatever the target", "compile.target"),
    Broken("unstable_fingerprint", "the key has the process id in it", "compile.fingerprint"),
    Broken("one_key_for_all", "the key has no source in it", "compile.fingerprint"),
    Broken("never_caches", "builds the same source again and again", "compile.cache"),
    Broken("caches_by_file_name", "the cache knows a file by its name, not by its source", "compile.cache"),
    Broken("shared_scratch", "all compiles write to one scratch file", "compile.threads"),
    Broken("counting_renderer", "source has a counter in it that outlives the call", "synth.deterministic"),
    Broken("hash_ordered_renderer", "source follows the order of a set", "synth.deterministic"),
    Broken("illegal_default", "the default schedule breaks a constraint", "synth.legal"),
    Broken("boundless_renderer", "says that it prints everything", "synth.refuses"),
    Broken("tail_dropping_renderer", "leaves the tail of a large loop out", "numeric.rendered", tier=1),
    Broken("aliasing_upload", "a device buffer is the tensor's own memory", "buffers.copied", tier=1),
    Broken("ignores_strides", "takes every tensor to be dense", "buffers.round_trip", tier=1),
    Broken("returns_its_input", "a copy is answered with its argument's own buffer", "runner.copies", tier=1),
    Broken(
        "narrowing_download",
        "everything comes back as float32",
        "buffers.round_trip",
        ("numeric.rendered",),
        tier=1,
    ),
    Broken(
        "lossy_copy",
        "results pass through half precision",
        "runner.copies",
        ("numeric.copy", "numeric.rendered"),
        tier=1,
    ),
    Broken("false_alarm", "reports its own threads as foreign", "runner.primitives", tier=1),
    Broken("leaks_the_reference", "the right answer is left in free memory", "runner.poison", tier=1),
    Broken(
        "lying_timer",
        "every call takes the same time",
        "timing.doubles",
        ("timing.floor", "numeric.copy"),
        tier=1,
    ),
    Broken(
        "missing_synchronise",
        "synchronize does not wait",
        "timing.synchronised",
        ("timing.doubles", "timing.floor", "profile.analytic", "numeric.copy"),
        tier=1,
    ),
    Broken("milliseconds", "times are in milliseconds", "timing.floor", tier=1),
    Broken("counts_the_host", "host code is counted as the kernel's time", "timing.floor", tier=1),
    Broken(
        "high_floor",
        "the floor lies above what honest kernels take",
        "timing.floor",
        ("numeric.copy",),
        tier=1,
    ),
    Broken("measured_simulator", "simulated times are called measured", "timing.wall", tier=2),
    Broken("halves_its_counters", "counts every other byte", "profile.analytic", tier=1),
    Broken("counts_down", "a counter falls while a kernel runs", "profile.consistent", tier=1),
    Broken("counts_nothing", "counters are declared and there are none", "profile.analytic", tier=1),
    Broken("invents_counters", "a counter that nobody counted", "profile.invented", tier=1),
    Broken("random_counters", "counters differ from call to call", "profile.invented", tier=1),
    Broken("flattering_roofline", "always at 97 % of the roofline", "profile.consistent", tier=1),
    Broken("falls_back_on_host", "a faulting kernel is computed on the host", "contain.crash", tier=1),
    Broken("gives_up_waiting", "an endless kernel counts as ended", "contain.hang", tier=1),
    Broken("clips_allocations", "gives less memory than was asked for", "contain.memory", tier=1),
    Broken("leaks_buffers", "remembers every buffer", "teardown.reset", tier=1),
    Broken("leaves_a_process", "a helper outlives its worker", "teardown.gone", tier=1, isolated=True),
    Broken("leaves_a_file", "a file stays in /tmp", "teardown.gone", tier=1, isolated=True),
)


def table() -> str:
    """The page's text."""
    lines = [
        "# Broken backends",
        "",
        "<!-- Made by tests/meta/cases.py --write: change the table there. -->",
        "",
        f"The conformance kit is tested with {len(CASES)} deliberately broken backends, each a small delta "
        f"of the",
        "toy accelerator. Each fails the check meant for it; what else it fails with it is collateral.",
        "",
        "| broken backend | what is wrong | caught by | collateral | tier |",
        "|---|---|---|---|---|",
    ]
    for c in CASES:
        also = ", ".join(f"`{name}`" for name in c.also) or "none"
        lines.append(f"| `{c.name}` | {c.what} | `{c.check}` | {also} | {c.tier} |")
    return "\n".join(lines) + "\n"


def failures(case: Broken, only: tuple[str, ...] = ()) -> dict[str, str]:
    """Checks of its tier (``only`` those named) that a broken backend fails, with what each said."""
    from kevolve_core.interfaces import BackendRef
    from kevolve_core.registry.probe import PROBE_SECONDS
    from kevolve_core.testing.subject import Subject
    from kevolve_core.testing.suite import run_suite

    ref = BackendRef(case.plugin, "toy")
    seconds = 10.0 if case.name == "hanging_probe" else PROBE_SECONDS
    subject = Subject(ref, isolated=case.isolated, probe_seconds=seconds, patience=10.0)
    try:
        result = run_suite(subject, (case.tier,), only=only)
    finally:
        subject.close()
    return {check.id: check.message for check in result.checks if check.bad}


def run_all(names: list[str]) -> int:
    """Run every check of its tier on every broken backend; the count of those that the table has wrong."""
    wrong = 0
    for case in CASES:
        if names and case.name not in names:
            continue
        found = tuple(failures(case))
        expected = {case.check, *case.also}
        good = set(found) == expected
        wrong += not good
        print(
            f"{'ok' if good else 'WRONG':<6}{case.name:<24} fails {', '.join(found) or 'nothing'}", flush=True
        )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run every check on every broken backend")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("names", nargs="*", help="only these, with --run")
    arguments = parser.parse_args()
    sys.path[:0] = [str(TOY), str(HERE)]
    if arguments.run:
        return 1 if run_all(arguments.names) else 0
    if arguments.write:
        PAGE.write_text(table(), encoding="utf-8")
    print(table(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

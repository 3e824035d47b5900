"""`kevolve replay`: a recorded search again, without network and device."""

from __future__ import annotations

from pathlib import Path

import click

from kevolve_core.cli.options import out
from kevolve_core.cli.render import say

__all__ = ["replay"]

DIFFERENT = 1


@click.command()
@click.argument("recording", metavar="RUN|FILE", type=click.Path(path_type=Path))
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Keep the new run here."
)
@click.option(
    "--pack",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the recording as one file (.jsonl, .jsonl.gz) instead of replaying it.",
)
def replay(recording: Path, folder: Path | None, pack: Path | None) -> int:
    """Run a recorded search again with its recorded replies and evaluations, and compare.

    RUN is the folder of a run whose generator was llm, FILE a recording written by --pack. Exit code 1: the
    replay took another way.
    """
    from kevolve_core.api.replaying import replay as replay_run
    from kevolve_core.llm.recording import pack as write_file
    from kevolve_core.llm.recording import unpack

    console = out()
    if pack is not None:
        found = unpack(recording)
        write_file(found, pack)
        say(console, f"{pack}: {len(found.calls)} requests, {len(found.proposals)} proposals")
        return 0
    done = replay_run(recording, out=folder)
    result = done.result
    say(console, f"{done.recording.spec.name}: {result.reason}", "bold")
    say(
        console,
        f"{len(done.recording.calls)} requests, {len(result.trajectory)} proposals, "
        f"{result.evaluations} evaluations, {result.tokens} tokens recorded",
    )
    if done.exact:
        say(console, "the replay is exact: every candidate, verdict, score and the end are as recorded")
        return 0
    for line in done.differences[:20]:
        say(console, line)
    return DIFFERENT

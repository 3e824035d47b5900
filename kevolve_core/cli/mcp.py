"""`kevolve mcp`: a server for coding agents, over stdin and stdout."""

from __future__ import annotations

from pathlib import Path

import click

from kevolve_core.cli.options import plugins_option, registry_of
from kevolve_core.errors import KnowledgeError
from kevolve_core.mcp import serve

__all__ = ["mcp"]


@click.command()
@click.option(
    "--knowledge",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="A folder of pages beside your own; may be given several times.",
)
@click.option(
    "--allow-confidential",
    is_flag=True,
    help="The agent and its model may see what confidential pages and backends give.",
)
@click.option("--executor", default="local", show_default=True, help="Where evaluations run.")
@plugins_option
def mcp(
    folders: tuple[Path, ...], allow_confidential: bool, executor: str, plugins_file: Path | None
) -> None:
    """Serve coding agents over stdin and stdout (MCP).

    They list targets, evaluate and profile candidates, search knowledge, submit candidates to runs and read
    runs. Configure your agent with the command `kevolve mcp`.
    """
    for folder in folders:
        if not folder.is_dir():
            raise KnowledgeError("there is no such knowledge folder", got=str(folder))
    serve(
        registry_of(plugins_file),
        folders,
        allow_confidential=allow_confidential,
        executor=executor,
    )

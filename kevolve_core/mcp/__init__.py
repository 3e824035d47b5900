"""`kevolve mcp`: coding agents list targets, evaluate, profile, search, submit candidates and read runs.

Needs the extra ``mcp`` (the official package); `serve` says so where it is missing.
"""

from __future__ import annotations

from pathlib import Path

from kevolve_core.errors import ToolchainMissingError
from kevolve_core.registry import Registry

__all__ = ["serve"]


def serve(
    registry: Registry,
    folders: tuple[Path, ...] = (),
    *,
    allow_confidential: bool = False,
    executor: str = "local",
) -> None:
    """Serve over stdin and stdout until the client leaves.

    Args:
        registry: backends the agent may use.
        folders: knowledge beside the shipped and the backends' own.
        allow_confidential: the agent may see what confidential pages and backends give.
        executor: where evaluations run.

    Raises:
        ToolchainMissingError: the package ``mcp`` is not installed, or too old.
    """
    try:
        from kevolve_core.mcp.server import make_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"mcp", "mcp_types"}:
            raise
        raise ToolchainMissingError(
            "the MCP server needs the package 'mcp', version 2 or newer",
            got=str(error),
            mend="pip install 'kevolve[mcp]'",
        ) from error
    server = make_server(registry, folders, allow_confidential=allow_confidential, executor=executor)
    server.run("stdio")

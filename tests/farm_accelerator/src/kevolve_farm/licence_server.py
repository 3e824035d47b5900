"""A licence server that grants everything: ``python -m kevolve_farm.licence_server [PORT]``."""

from __future__ import annotations

import socketserver
import sys

__all__ = ["LicenceServer"]


class _Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.granted.append(self.rfile.readline().decode().strip())  # type: ignore[attr-defined]
        self.wfile.write(b"GRANTED\n")


class LicenceServer(socketserver.ThreadingTCPServer):
    """Serves on 127.0.0.1; ``granted`` has what was asked for, in order."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.granted: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


if __name__ == "__main__":
    with LicenceServer(int(sys.argv[1]) if len(sys.argv) > 1 else 27750) as server:
        print(f"FARM_LICENCE={server.address}", flush=True)
        server.serve_forever()

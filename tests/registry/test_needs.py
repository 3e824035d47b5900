"""What a backend needs beyond the sandbox: declared, granted, refused; and what a grant does to a worker."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path

import pytest

from kevolve_core.errors import ConfigError, PluginError
from kevolve_core.evaluate.lifted import Lifted
from kevolve_core.interfaces import BackendRef, Manifest
from kevolve_core.isolate.process import RemoteError, WorkerProcess
from kevolve_core.registry import PluginState, Registry
from kevolve_core.registry.needs import Needs, check_manifest_needs, missing, parse_grants

NEEDY = """
import attrs
_plain = manifest
def manifest():
    return attrs.evolve(_plain(), needs={"compile": {"network": ["licence.example.com:27000"]},
                                         "run": {"environment": ["ACME_LICENSE_FILE"], "queue": 5}})
"""
GRANTS = 'network = ["licence.example.com:*"]\nenvironment = ["ACME_LICENSE_FILE"]\nqueue = 10\n'


def manifest(needs: dict[str, object]) -> Manifest:
    return Manifest("acme", (1, 0), (), frozenset(), needs=needs)


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"runs": {}}, "did you mean 'run'?"),
        ({"run": {"netwrok": []}}, "did you mean 'network'?"),
        ({"run": {"network": ["nowhere"]}}, "host:port"),
        ({"run": {"network": ["host:99999"]}}, "host:port"),
        ({"run": {"paths": ["relative/path"]}}, "absolute"),
        ({"run": {"devices": ["/etc/passwd"]}}, "below /dev"),
        ({"run": {"environment": ["A=1"]}}, "without its value"),
        ({"run": {"queue": -1}}, "seconds"),
        ({"run": {"queue": True}}, "seconds"),
        ({"run": {"paths": "/tmp"}}, "list of strings"),
        ({"run": True}, "mapping"),
    ],
)
def test_a_mistake_in_a_manifests_needs_is_named(needs: dict[str, object], words: str) -> None:
    with pytest.raises(PluginError) as caught:
        check_manifest_needs(manifest(needs))
    assert words in str(caught.value)


def test_a_mistake_in_a_grant_names_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_grants({"environment": ["A B"]}, "plugins.toml:plugins.acme.grants")
    assert caught.value.where == "plugins.toml:plugins.acme.grants.environment"


@pytest.mark.parametrize(
    ("needed", "granted", "lacking"),
    [
        ({"network": ["h:1"]}, {"network": ["h:1"]}, {}),
        ({"network": ["h:1"]}, {"network": ["h:*"]}, {}),
        ({"network": ["h:1"]}, {"network": True}, {}),
        ({"network": ["h:1", "h:2"]}, {"network": ["h:2"]}, {"network": ["h:1"]}),
        ({"network": True}, {"network": ["h:1"]}, {"network": ["*"]}),
        ({"paths": ["/opt/acme/cache"]}, {"paths": ["/opt/acme"]}, {}),
        ({"paths": ["/opt/acmes"]}, {"paths": ["/opt/acme"]}, {"paths": ["/opt/acmes"]}),
        ({"paths": ["/opt/acme/../other"]}, {"paths": ["/opt/acme"]}, {"paths": ["/opt/acme/../other"]}),
        ({"devices": ["/dev/acme0"]}, {"devices": ["/dev/acme*"]}, {}),
        ({"devices": ["/dev/acme*"]}, {"devices": ["/dev/acme0"]}, {"devices": ["/dev/acme*"]}),
        ({"queue": 5}, {"queue": 5}, {}),
        ({"queue": 5}, {"queue": 4}, {"queue": 5.0}),
        ({"programs": ["acmecc"]}, {}, {}),
    ],
)
def test_a_grant_covers_what_is_needed_or_the_rest_is_lacking(
    needed: dict[str, object], granted: dict[str, object], lacking: dict[str, object]
) -> None:
    assert missing(manifest({"run": needed}), parse_grants(granted, "grants")).plain() == lacking


def test_a_need_that_is_not_granted_makes_the_plugin_unavailable_and_says_what_to_grant(site) -> None:
    site.plugin("acme", NEEDY)
    registry = site.discover()
    (found,) = registry.statuses()
    assert found.state is PluginState.UNAVAILABLE
    assert "network to licence.example.com:27000" in found.cause
    assert found.mend == "kevolve plugins grant acme"
    with pytest.raises(PluginError, match="needs what it is not granted"):
        registry.backend("acme")


def test_a_granted_need_travels_to_workers_as_far_as_running_needs_it(site) -> None:
    site.plugin("acme", NEEDY)
    registry = site.discover(f"schema = 1\n[plugins.acme.grants]\n{GRANTS}")
    assert registry.statuses()[0].state is PluginState.READY
    assert registry.backend("acme").manifest.name == "acme"
    assert dict(registry.ref("acme").grants) == {"environment": ["ACME_LICENSE_FILE"], "queue": 5.0}


def test_an_embedder_grants_when_he_registers(site) -> None:
    plugin = importlib.import_module(site.module("acme", NEEDY))
    refused, granted = Registry(), Registry()
    refused.register(plugin, name="acme")
    with pytest.raises(PluginError, match="grants=") as caught:
        refused.backend("acme")
    assert "licence.example.com:27000" in str(caught.value)
    grants = {"network": True, "environment": ["ACME_LICENSE_FILE"], "queue": 5}
    granted.register(plugin, name="acme", grants=grants)
    assert granted.backend("acme").manifest.name == "acme"


def test_words_for_people_name_every_need() -> None:
    needs = Needs(("h:1",), ("/opt/x",), ("A",), ("/dev/a",), 5)
    assert needs.words() == (
        "network to h:1; writing below /opt/x; the environment variables A; the devices /dev/a; "
        "a queue of up to 5 s a launch"
    )


class Worker:
    """A worker's role that tries what a candidate might."""

    def __init__(self, opened: list[str], narrowed: str = "") -> None:
        from kevolve_core.isolate import sandbox

        self.said = f"{sandbox.confine(network='network' in opened, write='write' in opened)}; {narrowed}"

    def op_said(self) -> tuple[str, list[object]]:
        return self.said, []

    def op_write(self, path: str) -> tuple[None, list[object]]:
        Path(path).write_text("x")
        return None, []

    def op_connect(self, port: int) -> tuple[None, list[object]]:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return None, []


def worker(workdir: Path, grants: dict[str, object]) -> WorkerProcess:
    lifted = Lifted.of(BackendRef("module", "acme", grants=grants))
    return WorkerProcess(
        "tests.registry.test_needs:Worker",
        {"opened": lifted.opened},
        workdir=workdir,
        environment=lifted.environment(),
        drop_privileges=True,
        boundary=lifted.boundary(workdir),
    )


def refused(started: WorkerProcess, operation: str, **arguments: object) -> bool:
    try:
        started.call(operation, arguments)
    except RemoteError as error:
        return error.type == "PermissionError"
    return False


def test_a_grant_of_a_path_opens_that_path_and_nothing_else(tmp_path: Path) -> None:
    granted, other = tmp_path / "granted", tmp_path / "other"
    other.mkdir()
    started = worker(tmp_path / "work", {"paths": [str(granted)]})
    try:
        inside = refused(started, "write", path=str(granted / "file"))
        outside = refused(started, "write", path=str(other / "file"))
        connecting = refused(started, "connect", port=9)
        assert (inside, outside, connecting) == (False, True, True)
        assert f"writes only below {tmp_path / 'work'}" in started.call("said").value
    finally:
        started.kill()


def test_a_grant_of_an_address_opens_its_port_and_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as licence, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [licence.getsockname()[1], other.getsockname()[1]]
        started = worker(tmp_path / "work", {"network": [f"localhost:{ports[0]}"]})
        try:
            asked = [refused(started, "connect", port=port) for port in ports]
            assert (asked, refused(started, "write", path=str(tmp_path / "file"))) == ([False, True], True)
        finally:
            started.kill()


def test_without_a_grant_nothing_is_opened() -> None:
    lifted = Lifted.of(BackendRef("module", "acme"))
    assert (lifted.opened, lifted.boundary(Path("/tmp")), lifted.environment()) == ([], None, {})


def test_a_granted_variable_is_passed_where_the_user_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_LICENSE_FILE", "27000@licence")
    lifted = Lifted.of(BackendRef("module", "acme", grants={"environment": ["ACME_LICENSE_FILE", "NOT_SET"]}))
    assert lifted.environment() == {"ACME_LICENSE_FILE": "27000@licence"}

"""Every way in which a plugin can fail is a state with a cause and a mend, and the others still work."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from kevolve_core.errors import KevolveError, PluginError, UnknownNameError
from kevolve_core.interfaces import Manifest
from kevolve_core.registry import PluginState, PluginStatus, Registry
from kevolve_core.registry.compat import check_api, core_version
from kevolve_core.registry.local import probe_backend

SEGFAULT = "import ctypes; ctypes.string_at(0)"


def status(registry: Registry, name: str) -> PluginStatus:
    return {each.name: each for each in registry.statuses()}[name]


def refused(registry: Registry, name: str) -> KevolveError:
    with pytest.raises(KevolveError) as caught:
        registry.backend(name)
    return caught.value


def test_a_sound_plugin_is_ready_with_its_devices(site) -> None:
    site.plugin("good", version="1.2")
    found = status(site.discover(), "good")
    assert (found.state, found.cause, found.distribution, found.version, found.backends) == (
        PluginState.READY,
        "",
        "kevolve-good",
        "1.2",
        ("good",),
    )
    assert [device.id for device in found.devices] == ["good:0"]


def test_listing_imports_no_plugin_and_a_backend_imports_only_its_own(site) -> None:
    site.plugin("good")
    site.plugin("other")
    registry = site.discover()
    registry.statuses()
    listed = [name for name in ("fake_good", "fake_other") if name in sys.modules]
    registry.backend("good")
    used = [name for name in ("fake_good", "fake_other") if name in sys.modules]
    assert (listed, used) == ([], ["fake_good"])


def test_a_backend_is_made_once(site) -> None:
    site.plugin("good")
    registry = site.discover()
    assert registry.backend("good") is registry.backend("good")
    assert len(sys.modules["fake_good"].MADE) == 1


AT_IMPORT = {
    "raises": ("raise ValueError('no licence')", "ValueError: no licence (while importing it)"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3 (while importing it)"),
    "needs": ("import vendor_sdk", "ModuleNotFoundError: No module named 'vendor_sdk' (while importing it)"),
    "ends": ("import os; os._exit(0)", "the process ended by itself with exit status 0 while importing it"),
    "typo": ("def broken(:", "SyntaxError: invalid syntax (fake_typo.py, line 1) (while importing it)"),
}


def test_what_plugins_do_at_import_breaks_only_themselves(site) -> None:
    for name, (code, _) in AT_IMPORT.items():
        site.plugin(name, before=code)
    site.plugin("good")
    registry = site.discover()
    causes = {each.name: each.cause for each in registry.statuses() if each.state == "broken"}
    assert causes == {name: cause for name, (_, cause) in AT_IMPORT.items()}
    assert "the Python module 'vendor_sdk'" in status(registry, "needs").mend
    assert registry.backend("good").manifest.name == "good"


def test_a_plugin_that_segfaults_at_import_is_broken_and_never_imported_here(site) -> None:
    site.plugin("bad", before=SEGFAULT)
    site.plugin("good")
    registry = site.discover()
    found = status(registry, "bad")
    assert found.state is PluginState.BROKEN
    place = f"{site.lib / 'fake_bad.py'}:1"
    assert found.cause == f"the process was killed by SIGSEGV while importing it at {place}"
    error = refused(registry, "bad")
    assert isinstance(error, PluginError)
    assert "SIGSEGV" in str(error)
    assert "Segmentation fault" in str(error.__cause__)
    assert "fake_bad" not in sys.modules
    assert len(registry.devices("good")) == 1


@pytest.mark.slow
def test_a_plugin_that_hangs_at_import_is_broken_after_the_limit(site) -> None:
    site.plugin("bad", before="import time; time.sleep(3600)")
    found = status(site.discover(KEVOLVE_PROBE_SECONDS="3"), "bad")
    assert (found.state, found.cause) == (
        PluginState.BROKEN,
        "no answer within 3 s while importing it",
    )


def test_an_interrupt_does_not_wait_for_plugins_that_hang(site) -> None:
    for name in ("a", "b"):
        site.plugin(name, before=f"open({str(site.folder / name)!r}, 'w'); import time; time.sleep(3600)")
    registry = site.discover()

    def interrupt() -> None:
        while not ((site.folder / "a").exists() and (site.folder / "b").exists()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        started = time.monotonic()
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            registry.statuses()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 30  # the limit of a probe is 60 s here


@pytest.mark.slow
def test_what_a_hanging_probe_started_is_stopped_with_it(site) -> None:
    site.plugin(
        "bad",
        f"""
        def _hang(self):
            import subprocess, time
            started = subprocess.Popen(["sleep", "3600"])
            open({str(site.folder / "pid")!r}, "w").write(str(started.pid))
            time.sleep(3600)
        FakeBackend.probe = _hang
        """,
    )
    found = status(site.discover(KEVOLVE_PROBE_SECONDS="3"), "bad")
    assert found.cause == "no answer within 3 s while probing backend 'bad'"
    process = Path("/proc", (site.folder / "pid").read_text(), "stat")
    for _ in range(50):  # the kernel needs a moment; an orphan may stay a zombie where nothing reaps it
        state = process.read_text().rpartition(")")[2].split()[0] if process.exists() else "gone"
        if state in ("gone", "Z"):
            break
        time.sleep(0.1)
    assert state in ("gone", "Z")


def test_a_backend_whose_probe_crashes_leaves_the_plugins_other_backend_working(site) -> None:
    site.plugin(
        "two",
        f"""
        class Crashing(FakeBackend):
            def probe(self):
                {SEGFAULT}
        @hookimpl
        def kevolve_register(registry):
            import attrs
            registry.add_backend(attrs.evolve(manifest(), name="crashing"), Crashing)
            registry.add_backend(manifest(), FakeBackend)
        """,
    )
    registry = site.discover()
    assert "SIGSEGV while probing backend 'crashing'" in str(refused(registry, "crashing"))
    assert registry.backend("two").manifest.name == "two"
    assert (list(registry.devices("crashing")), len(registry.devices("two"))) == ([], 1)
    found = status(registry, "two")
    assert found.state is PluginState.READY
    assert "SIGSEGV while probing backend 'crashing'" in found.cause


@pytest.mark.parametrize(
    ("probe", "state", "cause"),
    [
        ("raise RuntimeError('driver 12 is too old')", "broken", "RuntimeError: driver 12 is too old"),
        ("return []", "unavailable", "backend 'bad' found no device on this machine"),
        ("return None", "broken", "probe() must return a sequence of Device: None"),
        ("return [1]", "broken", "probe() must return a sequence of Device: [1]"),
        ("return [device(0), device(0)]", "broken", "two devices have one id: bad:0, bad:0"),
        (
            "return [device(0, facts={'x': object()})]",
            "broken",
            "a fact of device 'bad:0' is not a JSON value",
        ),
    ],
)
def test_a_probes_result_is_a_state(site, probe: str, state: str, cause: str) -> None:
    module = importlib.import_module(
        site.module("bad", f"def _probe(self):\n    {probe}\nFakeBackend.probe = _probe")
    )
    devices, fault = probe_backend(module.manifest(), module.FakeBackend, {}, "options")
    assert fault is not None
    assert (devices, fault.state, fault.cause[: len(cause)], bool(fault.mend)) == ((), state, cause, True)


def test_a_backend_without_a_device_is_unavailable_and_refused(site) -> None:
    site.plugin("bad", "DEVICES = 0")
    registry = site.discover()
    assert status(registry, "bad").state is PluginState.UNAVAILABLE
    assert (list(registry.devices("bad")), type(refused(registry, "bad"))) == ([], PluginError)


def test_a_plugin_that_prints_at_import_does_not_disturb_its_probe(site, capfd) -> None:
    site.plugin("loud", before="import os; print('{\"done\": 1}', flush=True); os.system('echo hello')")
    assert status(site.discover(), "loud").state is PluginState.READY
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("api", "sign"), [((2, 0), ">"), ((1, 9), ">"), ((0, 3), "<")], ids=["major", "minor", "older"]
)
def test_another_api_version_names_the_kevolve_to_install(api, sign) -> None:
    with pytest.raises(PluginError, match=f"built for plugin API {api[0]}.{api[1]}") as caught:
        check_api(Manifest("old", api, (), frozenset()))
    assert f"pip install 'kevolve{sign}{core_version()}'" in (caught.value.mend or "")


def test_a_plugin_of_the_next_api_major_is_incompatible_and_refused(site) -> None:
    site.plugin("next", "API = (2, 0)")
    registry = site.discover()
    found = status(registry, "next")
    assert (found.state, f"'kevolve>{core_version()}'" in found.mend) == (PluginState.INCOMPATIBLE, True)
    assert "plugin API 2.0" in str(refused(registry, "next"))


def test_a_distribution_that_requires_another_kevolve_is_incompatible_before_it_is_imported(site) -> None:
    site.plugin("late", requires="kevolve>=99,<100", before=SEGFAULT)
    found = status(site.discover(), "late")
    assert found.state is PluginState.INCOMPATIBLE
    assert found.mend.startswith("pip install 'kevolve")
    assert "99" in found.mend


def test_of_two_plugins_with_one_backend_name_the_first_works_and_the_second_is_told(site) -> None:
    site.plugin("alpha", "NAME = 'gpu'")
    site.plugin("beta", "NAME = 'gpu'")
    registry = site.discover()
    assert [(each.name, each.state) for each in registry.statuses()] == [
        ("alpha", PluginState.READY),
        ("beta", PluginState.BROKEN),
    ]
    assert status(registry, "beta").cause == "backend 'gpu' is already provided by plugin 'alpha'"
    assert registry.ref("gpu").plugin.startswith("fake_alpha")


def test_a_higher_priority_keeps_a_name_that_two_plugins_claim(site) -> None:
    site.plugin("alpha", "NAME = 'gpu'")
    site.plugin("beta", "NAME = 'gpu'")
    registry = site.discover("schema = 1\n[core]\nautoload = 'all'\n[plugins.beta]\npriority = 1")
    assert [(each.name, each.state.value) for each in registry.statuses()] == [
        ("beta", "ready"),
        ("alpha", "broken"),
    ]
    assert "priority = 2" in status(registry, "alpha").mend


def test_two_distributions_with_one_plugin_name_are_told_apart(site) -> None:
    site.plugin("gpu", dist="acme-gpu")
    site.metadata("zeta-gpu", "1.0", "gpu = fake_gpu")
    registry = site.discover()
    assert [(each.name, each.state.value) for each in registry.statuses()] == [
        ("gpu", "ready"),
        ("gpu (zeta-gpu)", "broken"),
    ]


def test_damaged_metadata_of_one_distribution_hides_no_other(site) -> None:
    site.plugin("good")
    site.metadata("kevolve-odd", "1.0", "this line is no entry point")
    states = {each.name: each.state.value for each in site.discover().statuses()}
    assert states == {"good": "ready", "kevolve-odd": "broken"}


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("del kevolve_register", "plugin 'bad' implements no hook"),
        ("@hookimpl\ndef kevolve_regsiter(registry): ...", "implements a hook that does not exist"),
        ("@hookimpl\ndef kevolve_register(catalogue): ...", "PluginValidationError"),
        ("@hookimpl\ndef kevolve_register(registry): registry.add_generator('g', 3)", "needs a callable"),
        (
            "@hookimpl\ndef kevolve_register(registry): registry.add_backend('b', print)",
            "added with a Manifest",
        ),
        (
            "@hookimpl\ndef kevolve_register(registry):\n    for _ in 'ab': registry.add_policy('p', print)",
            "policy 'p' is added twice",
        ),
    ],
)
def test_a_mistake_in_registration_is_named(site, code: str, cause: str) -> None:
    plugin = importlib.import_module(site.module("bad", code))
    with pytest.raises(PluginError) as caught:
        Registry().register(plugin, name="bad")
    assert cause in str(caught.value)


def test_an_unknown_backend_lists_the_ready_ones_and_why_others_are_not(site) -> None:
    site.plugin("good")
    site.plugin("bad", before="import vendor_sdk")
    with pytest.raises(UnknownNameError) as caught:
        site.discover().backend("goood")
    text = str(caught.value)
    assert "where: ready: good\n         not ready: bad, broken: ModuleNotFoundError" in text
    assert "did you mean 'good'?" in text


def test_a_plugin_with_another_name_than_its_backend_is_no_backend(site) -> None:
    site.plugin("acme", "NAME, DEVICES = 'acme_gpu', 0")
    registry = site.discover()
    with pytest.raises(UnknownNameError):
        registry.backend("acme")
    with pytest.raises(PluginError, match="no device"):
        registry.backend("acme_gpu")


@pytest.mark.slow
def test_a_mended_plugin_works_at_once_though_its_failure_is_remembered(site) -> None:
    flag = site.folder / "driver"
    site.plugin("gpu", f"import os\nDEVICES = int(os.path.exists({str(flag)!r}))")
    site.discover().statuses()
    flag.touch()
    remembered = status(site.discover(), "gpu").state
    registry = site.discover()
    assert registry.backend("gpu").manifest.name == "gpu"
    assert (remembered, status(registry, "gpu").state) == (PluginState.UNAVAILABLE, PluginState.READY)


@pytest.mark.slow
def test_a_probe_is_remembered_until_the_plugin_changes_or_a_refresh_is_asked(site) -> None:
    log = site.folder / "log"
    site.plugin("good", f"open({str(log)!r}, 'a').write('x')")
    counts = []
    for step in range(4):
        registry = site.discover()
        if step == 2:
            site.module("good", f"open({str(log)!r}, 'a').write('x')", "CHANGED = True")
        registry.statuses(refresh=step == 3)
        counts.append(len(log.read_text()))
    assert counts == [1, 1, 2, 3]


@pytest.mark.slow
def test_a_remembered_probe_is_not_used_after_a_day(site) -> None:
    log = site.folder / "log"
    site.plugin("good", f"open({str(log)!r}, 'a').write('x')")
    site.discover().statuses()
    for file in (site.folder / "cache" / "kevolve" / "probes").iterdir():
        os.utime(file, (0, time.time() - 25 * 3600))
    site.discover().statuses()
    assert log.read_text() == "xx"


@pytest.mark.slow
def test_a_damaged_cache_entry_is_probed_again(site) -> None:
    site.plugin("good")
    site.discover().statuses()
    for file in (site.folder / "cache" / "kevolve" / "probes").iterdir():
        file.write_text('{"fault": 3')
    assert status(site.discover(), "good").state is PluginState.READY


def test_a_cache_that_cannot_be_written_is_done_without(site) -> None:
    (site.folder / "cache").write_text("a file")
    site.plugin("good")
    assert status(site.discover(), "good").state is PluginState.READY


def test_a_plugin_that_fails_only_in_this_process_is_broken_with_its_cause(site) -> None:
    site.plugin("bad", "import sys\nif 'pytest' in sys.modules: raise RuntimeError('not under pytest')")
    registry = site.discover()
    before = status(registry, "bad").state
    error = refused(registry, "bad")
    assert (before, status(registry, "bad").state) == (PluginState.READY, PluginState.BROKEN)
    assert str(error.__cause__) == "not under pytest"


def test_devices_have_only_capabilities_that_the_manifest_declares(site) -> None:
    site.plugin("good")
    assert site.discover().devices("good")[0].capabilities == {"compile", "run"}


def test_a_factory_that_raises_is_a_plugin_error(site) -> None:
    site.plugin("bad", "def FakeBackend(options): raise KeyError('stream')")
    error = refused(site.discover(), "bad")
    assert (type(error), "KeyError: 'stream' (while making backend 'bad')" in str(error)) == (
        PluginError,
        True,
    )

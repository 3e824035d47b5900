"""A registry that a program fills itself, the hooks of a run, and backends in worker processes."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kevolve_core.errors import ConfigError, PluginError, UndeclaredCapabilityError, UnknownNameError
from kevolve_core.interfaces import EvaluationRequest, Manifest
from kevolve_core.model import Candidate, Evaluation, Verdict, VerdictKind
from kevolve_core.registry import PluginState, Registry, discover, hookimpl, load_backend, require

MANIFEST = Manifest("here", (1, 0), ("cpp",), frozenset({"compile"}))


def fake(site, name: str, *more: str):
    return importlib.import_module(site.module(name, *more))


def test_an_embedder_s_registry_reads_no_file_and_starts_no_process(site) -> None:
    name = site.module("good")
    (site.folder / "work" / "plugins.toml").write_text("this is not TOML")
    script = f"""
import sys, {name}
from kevolve_core.registry import Registry
import jsonschema, signal, logging
seen = []
watched = ("open", "os.listdir", "os.scandir", "os.fork", "subprocess.Popen", "os.posix_spawn", "os.chdir")
def handlers():
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    return [signal.getsignal(number) for number in signals], list(logging.root.handlers)
before = handlers()
sys.addaudithook(lambda event, args: seen.append((event, str(args[:1]))) if event in watched else None)
registry = Registry()
registry.register({name}, name="good", options={{"x": 1}})
backend = registry.backend("good")
registry.statuses(), registry.names("backend"), registry.ref("good"), registry.emit(object())
assert before == handlers()
assert backend.options == {{"x": 1}}
print(seen)
"""
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, env={"PYTHONPATH": path}
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_registries_share_nothing(site) -> None:
    first, second = Registry(), Registry()
    first.register(fake(site, "good"), name="good")
    assert (list(first.names("backend")), list(second.names("backend"))) == (["good"], [])


def test_devices_of_a_registered_module_are_probed_in_a_subprocess(site) -> None:
    module = fake(site, "good")
    registry = Registry()
    registry.register(module, name="good")
    assert ([device.id for device in registry.devices("good")], module.MADE) == (["good:0"], [])


def test_a_registered_module_whose_probe_crashes_has_no_devices_and_a_cause(site) -> None:
    crash = "def _probe(self):\n    import ctypes; ctypes.string_at(0)\nFakeBackend.probe = _probe"
    registry = Registry()
    registry.register(fake(site, "bad", crash), name="bad")
    assert list(registry.devices("bad")) == []
    (found,) = registry.statuses()
    assert (found.state, "SIGSEGV" in found.cause) == (PluginState.BROKEN, True)


def test_an_object_made_at_run_time_serves_this_process_only(site) -> None:
    module = fake(site, "good")
    plugin = type("Plugin", (), {"kevolve_register": staticmethod(module.kevolve_register)})()
    registry = Registry()
    registry.register(plugin, name="mine")
    assert [device.id for device in registry.devices("good")] == ["good:0"]
    with pytest.raises(PluginError, match="worker process"):
        registry.ref("good")


def test_a_registration_that_fails_leaves_nothing_behind(site) -> None:
    more = """
    @hookimpl
    def kevolve_register(registry):
        registry.add_backend(manifest(), FakeBackend)
        1 / 0
    """
    registry = Registry()
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        registry.register(fake(site, "bad", more), name="bad")
    assert (list(registry.names("backend")), list(registry.statuses())) == ([], [])


def test_registering_a_taken_name_or_a_bad_option_is_refused(site) -> None:
    schema = "SCHEMA = {'properties': {'a': {'type': 'string'}}, 'additionalProperties': False}"
    module = fake(site, "good", schema)
    registry = Registry()
    with pytest.raises(ConfigError, match="no option 'b'"):
        registry.register(module, name="good", options={"b": 1})
    registry.register(module, name="good", options={"a": "x"})
    with pytest.raises(PluginError, match="registered already"):
        registry.register(module, name="good")
    with pytest.raises(PluginError, match="already provided by plugin 'good'"):
        registry.register(module, name="again")


def test_an_incompatible_plugin_is_refused_when_registered(site) -> None:
    with pytest.raises(PluginError, match=r"built for plugin API 2\.0"):
        Registry().register(fake(site, "new", "API = (2, 0)"), name="new")


def test_things_added_directly_are_found_by_name() -> None:
    registry = Registry()
    registry.add_backend(MANIFEST, lambda options: SimpleNamespace(manifest=MANIFEST, options=options))
    registry.add_generator("g", dict)
    registry.add_policy("p", list)
    registry.add_executor("e", set)
    registry.add_provider("m", tuple)
    registry.add_problems("suite", [1])
    registry.add_command("hello", print)
    found = (
        registry.backend("here").manifest,
        registry.generator("g"),
        registry.policy("p"),
        registry.executor("e"),
        registry.provider("m"),
        registry.problems("suite"),
        registry.command("hello"),
    )
    assert found == (MANIFEST, dict, list, set, tuple, [1], print)


@pytest.mark.parametrize("kind", ["generator", "policy", "executor", "provider", "problems", "command"])
def test_an_unknown_name_of_any_kind_lists_those_that_are_there(kind: str) -> None:
    registry = Registry()
    getattr(registry, f"add_{kind}")("greedy", print)
    with pytest.raises(UnknownNameError, match=r"ready: greedy[\s\S]*did you mean 'greedy'"):
        getattr(registry, kind)("gredy")


def test_an_unknown_kind_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'backend'"):
        Registry().names("backends")


def test_what_the_program_added_keeps_its_name_against_a_plugin(site) -> None:
    site.plugin("good", "@hookimpl\ndef kevolve_register(registry): registry.add_generator('synth', list)")
    registry = site.discover()
    registry.add_generator("synth", dict)
    (found,) = registry.statuses()
    assert (registry.generator("synth"), found.cause) == (
        dict,
        "generator 'synth' is already provided by the program itself",
    )


def test_a_plugin_of_generators_alone_is_ready_and_its_factory_is_found(site) -> None:
    site.plugin("good", "@hookimpl\ndef kevolve_register(registry): registry.add_generator('mine', dict)")
    registry = site.discover()
    (found,) = registry.statuses()
    assert (registry.generator("mine"), found.state, dict(found.provides)) == (
        dict,
        PluginState.READY,
        {"generator": ("mine",)},
    )


@pytest.mark.parametrize("how", ["entry point", "path", "registered"])
def test_a_worker_finds_a_backend_by_its_reference(site, how: str) -> None:
    registry = Registry()
    if how == "entry point":
        site.plugin("good")
        registry = site.discover("schema = 1\n[plugins.good.options]\na = 1")
    elif how == "path":
        text = (site.lib / f"{site.module('good')}.py").read_text()
        (site.folder / "near.py").write_text(text)
        registry = site.discover("schema = 1\n[plugins.good]\npath = 'near.py'\noptions = {a = 1}")
    else:
        registry.register(fake(site, "good"), name="good", options={"a": 1})
    ref = registry.ref("good")
    script = """
import json, sys
from kevolve_core.interfaces import BackendRef
from kevolve_core.registry import load_backend
backend = load_backend(BackendRef(**json.loads(sys.argv[1])))
print(backend.manifest.name, backend.options, [m for m in sys.modules if m == "torch"])
"""
    # A worker has the installed packages; what an embedder imported from elsewhere it finds by the reference.
    path = [p for p in sys.path if p != str(site.lib) or how == "entry point"]
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            script,
            json.dumps({**{f: getattr(ref, f) for f in ("plugin", "backend")}, "options": dict(ref.options)}),
        ],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(path)},
    )
    assert (done.stdout, done.stderr) == ("good {'a': 1} []\n", "")


def test_a_reference_to_a_missing_backend_or_module_is_a_plugin_error(site) -> None:
    from kevolve_core.interfaces import BackendRef

    site.module("good")
    with pytest.raises(PluginError, match=r"offers no backend 'goood'[\s\S]*did you mean 'good'"):
        load_backend(BackendRef("fake_good", "goood"))
    with pytest.raises(PluginError, match="No module named 'fake_gone'") as caught:
        load_backend(BackendRef("fake_gone", "gone"))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_observers_are_told_and_one_that_raises_is_logged_once(caplog) -> None:
    seen: list[object] = []

    class Raising:
        @hookimpl
        def kevolve_event(self, event: object) -> None:
            raise ValueError(f"cannot show {event}")

    class Seeing:
        @hookimpl
        def kevolve_event(self, event: object) -> None:
            seen.append(event)

    registry = Registry()
    for name, plugin in [("before", Seeing()), ("raising", Raising()), ("after", Seeing())]:
        registry.register(plugin, name=name)
    with caplog.at_level(logging.WARNING):
        registry.emit(1)
        registry.emit(2)
    assert (seen, [r.args for r in caplog.records]) == ([1, 1, 2, 2], [("raising",)])


def test_an_installed_observer_is_loaded_when_events_flow(site, capsys) -> None:
    site.plugin("seer", "@hookimpl\ndef kevolve_event(event): print('saw', event)")
    site.plugin("bystander")
    registry = site.discover()
    registry.emit("x")
    assert (capsys.readouterr().out, "fake_bystander" in sys.modules) == ("saw x\n", False)


REQUEST = EvaluationRequest(
    spec=SimpleNamespace(name="s"),  # type: ignore[arg-type]
    candidate=Candidate(files={"k.py": ""}, entry="k.py", language="cpp"),
    stages=(),
)


def result(reason: str) -> Evaluation:
    return Evaluation("c", Verdict(VerdictKind.ACCEPTED, reason))


def test_without_evaluation_hooks_the_executor_is_called() -> None:
    assert Registry().evaluate(REQUEST, lambda _: result("ran")).verdict.reason == "ran"


def test_a_wrapper_stands_around_and_a_cache_in_front_of_evaluations() -> None:
    calls: list[str] = []

    class Audit:
        @hookimpl(wrapper=True)
        def kevolve_evaluate(self):  # type: ignore[no-untyped-def]
            calls.append("before")
            evaluation = yield
            calls.append(f"after {evaluation.verdict.reason}")
            return evaluation

    class Cache:
        answer: Evaluation | None = None

        @hookimpl
        def kevolve_evaluate(self) -> Evaluation | None:
            return self.answer

    registry, cache = Registry(), Cache()
    registry.register(Audit(), name="audit")
    registry.register(cache, name="cache")
    registry.evaluate(REQUEST, lambda _: result("ran"))
    cache.answer = result("cached")
    registry.evaluate(REQUEST, lambda _: result("ran"))
    assert calls == ["before", "after ran", "before", "after cached"]


def test_what_the_executor_raises_passes_and_what_a_hook_raises_is_a_plugin_error() -> None:
    class Quota:
        exhausted = False

        @hookimpl
        def kevolve_evaluate(self) -> None:
            if self.exhausted:
                raise LookupError("no quota")

    def failing(_: EvaluationRequest) -> Evaluation:
        raise MemoryError("device lost")

    registry, quota = Registry(), Quota()
    registry.register(quota, name="quota")
    with pytest.raises(MemoryError, match="device lost"):
        registry.evaluate(REQUEST, failing)
    quota.exhausted = True
    with pytest.raises(PluginError, match="LookupError: no quota"):
        registry.evaluate(REQUEST, lambda _: result("ran"))


def test_a_capability_that_is_not_declared_is_refused() -> None:
    require(MANIFEST, "compile")
    with pytest.raises(UndeclaredCapabilityError, match="did you mean 'compile'"):
        require(MANIFEST, "compil")


def test_a_device_may_have_fewer_capabilities_than_its_backend(site) -> None:
    site.plugin("good")
    (device,) = site.discover().devices("good")
    with pytest.raises(UndeclaredCapabilityError, match="device 'good:0'"):
        require(device, "time")


def test_the_registry_and_its_probe_import_neither_torch_nor_numpy() -> None:
    script = (
        "import sys, kevolve_core.registry.child, kevolve_core.registry;"
        "print([m for m in ('torch', 'numpy', 'sqlalchemy', 'jsonschema', 'cli') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_discovery_starts_nothing_until_something_is_asked(site, monkeypatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    site.plugin("good")
    monkeypatch.setattr(subprocess, "Popen", started)
    discover(environ=site.environ)

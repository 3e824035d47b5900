"""Plain requests resolve to what they say, or to one question; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kevolve_core.api.asking import is_request, resolve_request
from kevolve_core.errors import RequestError, UnknownNameError
from kevolve_core.interfaces import Manifest
from kevolve_core.knowledge import KnowledgeBase
from kevolve_core.knowledge.request import Request, understand
from kevolve_core.model import Device, Target
from kevolve_core.registry import Registry

LANGUAGES = ("cpp", "cuda", "cute", "hip", "triton")


def ask(text: str) -> Request:
    return understand(text, KnowledgeBase.open().targets, LANGUAGES)


def question(text: str) -> RequestError:
    with pytest.raises(RequestError) as raised:
        ask(text).spec()
    return raised.value


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        ("a Triton kernel for row-wise softmax on mtia 2i", "softmax, triton, on mtia-2i"),
        ("please write me a fast rmsnorm in C++", "rms_norm, cpp"),
        ("bf16 layer norm 4096x5120 for an H100 GPU", "layer_norm, bfloat16, ROWS 4096 x H 5120, on hopper"),
        ("matmul M=512, N=1024, K=64 in CuTe DSL", "matmul, M 512 x N 1024 x K 64, cute"),
        ("gemm of shape (512, 256, 64), half precision", "matmul, float16, M 512 x N 256 x K 64"),
        ("flash attention in HIP for MI300X", "attention, hip, on cdna3"),
        ("Causal attention, Triton, Blackwell", "causal_attention, triton, on blackwell"),
    ],
)
def test_words_are_understood(text: str, understood: str) -> None:
    assert ask(text).words() == understood


def test_the_target_alone_asks_for_the_operator() -> None:
    asked = question("Generate a Triton kernel for MTIA v3")
    assert asked.what == "which operator shall the kernel compute?"
    assert asked.got == "language triton; target mtia-300"
    assert asked.mend is not None
    assert "softmax" in asked.mend


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "layernorm and softmax on mi300x",
            "which operator shall the kernel compute: layer_norm or softmax?",
        ),
        ("softmax on h100 or mi300x", "which target is meant: hopper or cdna3?"),
        ("softmax in triton or cuda", "which language is meant: triton or cuda?"),
        ("column-wise softmax", "what is meant by 'column-wise'?"),
        ("int8 matmul", "what is meant by 'int8'?"),
        ("softmax for the frobnicator 9000", "what is meant by 'frobnicator', '9000'?"),
        ("softmax 4x5x6", "which sizes shall softmax have?"),
        ("softmax ROWS=4", "which sizes shall softmax have?"),
        ("write a kernel", "which operator shall the kernel compute?"),
    ],
)
def test_what_is_open_is_one_question(text: str, what: str) -> None:
    assert question(text).what == what


def test_a_typing_mistake_gets_a_suggestion() -> None:
    assert question("a sofmax kernel").mend == "did you mean 'softmax'?"


def test_sizes_and_type_reach_the_specification() -> None:
    spec = ask("fp16 softmax 128 x 256").spec()
    (case,) = spec.timed_cases
    assert [(i.shape, i.dtype) for i in case.inputs] == [((128, 256), "float16")]
    assert [c.name for c in spec.cases if c.role == "holdout"] == ["long"]


def test_integer_inputs_keep_their_type() -> None:
    spec = ask("bf16 embedding").spec()
    assert [i.dtype for i in spec.timed_cases[0].inputs] == ["int64", "bfloat16"]


def test_files_are_no_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my softmax").touch()
    given = ("softmax.yaml", "a b.yaml", "my softmax", "softmax", "a softmax")
    assert [is_request(text) for text in given] == [False, False, False, False, True]


class FakeBackend:
    def __init__(self, manifest: Manifest, arches: tuple[str, ...]) -> None:
        self.manifest = manifest
        self.arches = arches

    def probe(self) -> tuple[Device, ...]:
        name = self.manifest.name
        return tuple(
            Device(f"{name}:{n}", name, f"chip {arch}", Target(name, arch))
            for n, arch in enumerate(self.arches)
        )

    def knowledge(self) -> tuple[Path, ...]:
        return ()


def registry(*arches: str, name: str = "fake") -> Registry:
    made = Registry()
    manifest = Manifest(name, (1, 0), ("triton", "cuda"), frozenset({"compile"}))
    made.add_backend(manifest, lambda _options: FakeBackend(manifest, arches))  # type: ignore[arg-type, return-value]
    return made


def test_a_request_finds_the_device_it_names() -> None:
    asked = resolve_request("a Triton softmax on h100", registry("sm_80", "sm_90a"))
    assert (asked.backend, asked.device) == ("fake", "fake:1")


def test_a_target_that_nobody_serves_is_said() -> None:
    with pytest.raises(UnknownNameError, match=r"no backend that is ready serves target 'cdna3'"):
        resolve_request("softmax on mi300x", registry("sm_80"))


def test_a_family_with_several_members_asks_which() -> None:
    with pytest.raises(RequestError, match=r"which of these is meant by 'nvidia'\?"):
        resolve_request("softmax on an nvidia gpu", registry("sm_80", "sm_90a"))


def test_a_language_that_the_backend_lacks_is_said() -> None:
    with pytest.raises(UnknownNameError, match="does not take the language 'cpp'"):
        resolve_request("softmax in C++ on h100", registry("sm_90a"))


def test_a_request_without_a_target_leaves_the_place_open() -> None:
    asked = resolve_request("softmax in cuda", registry("sm_90a"))
    assert (asked.backend, asked.device, asked.spec.name) == (None, None, "softmax")

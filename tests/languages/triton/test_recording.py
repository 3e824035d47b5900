"""The recording driver: launches of hand-written kernels, without a device."""

import threading

import pytest
import torch

from kevolve_core.errors import CompileError, UnsupportedError
from kevolve_core.languages.triton import Launch, TritonTarget, compile_launch, launch_key, record
from tests.languages.triton import kernels

HOPPER = TritonTarget("cuda", 90, 32, {"multi_processor_count": 132})


def launches(call, *args, **options) -> tuple[Launch, ...]:
    return record(call, args, target=HOPPER, **options)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_launches_are_collected_in_order_with_their_specialisation(device):
    found = launches(kernels.scaled_twice, torch.empty(1000, device=device))
    assert [(x.name, x.grid) for x in found] == [("scaled_kernel", (8, 1, 1))] * 2
    assert dict(found[0].signature) == {
        "x": "*fp32", "out": "*fp32", "n": "i32", "factor": "fp32", "BLOCK": "constexpr"
    }  # fmt: skip
    assert dict(found[0].constexprs) == {(4,): 128}
    assert found[0].attributes[(0,)] == [["tt.divisibility", 16]]
    assert dict(found[0].options) == {"num_warps": 2}


def test_an_unaligned_pointer_and_a_size_of_one_are_specialised():
    sliced = torch.empty(1001)[1:]
    assert launches(kernels.scaled, sliced)[0].attributes[(0,)] == []
    assert launches(kernels.scaled, torch.empty(1))[0].constexprs[(2,)] == 1


def test_tensor_arguments_are_the_hosts_own():
    x = torch.empty(10)
    assert launches(kernels.scaled, x)[0].tensors["x"] is x


def test_an_executor_runs_each_launch_before_host_code_goes_on():
    def execute(launch: Launch) -> None:
        launch.tensors["out"].copy_(launch.tensors["x"] * launch.arguments["factor"])

    results = []
    launches(lambda x: results.append(kernels.scaled_twice(x)), torch.tensor([-1.0, 3.0]), on_launch=execute)
    assert results[0].tolist() == [0.0, 12.0]


def test_an_empty_grid_launches_nothing():
    assert launches(kernels.scaled, torch.empty(0)) == ()


def test_an_autotuner_prefers_its_first_configuration_and_keeps_no_trace():
    found = launches(kernels.tuned, torch.empty(1000), keep_tuning=True)
    assert [(x.tuning, x.constexprs[(4,)]) for x in found] == [(True, 64), (True, 256), (False, 64)]
    assert [x.tuning for x in launches(kernels.tuned, torch.empty(1000))] == [False]
    assert kernels.tuned_kernel.cache == {}


def test_tensor_descriptors_are_recorded_and_compile():
    found = launches(kernels.copied, torch.empty(64, 64, device="meta"))[0]
    assert found.signature["source"] == "tensordesc<fp32[16, 32]>"
    assert set(found.tensors) == {"source", "target"}
    assert "cubin" in compile_launch(found).asm


def test_host_code_is_told_the_targets_properties():
    assert launches(kernels.persistent, torch.empty(100))[0].grid == (132, 1, 1)


@pytest.mark.parametrize(("arch", "name"), [(80, "sm_80"), (90, "sm_90a"), (100, "sm_100a")])
def test_a_launch_compiles_ahead_without_a_device(arch, name):
    launch = launches(kernels.scaled, torch.empty(1000))[0]
    compiled = compile_launch(launch, TritonTarget("cuda", arch))
    assert f".target {name}" in compiled.asm["ptx"]
    assert compiled.asm["cubin"][:4] == b"\x7fELF"


def test_a_kernel_that_does_not_compile_has_the_compilers_log():
    launch = launches(kernels.wrong, torch.empty(8))[0]
    with pytest.raises(CompileError) as caught:
        compile_launch(launch)
    assert "arange's range must be a power of 2" in caught.value.log


def test_a_target_nobody_compiles_for_is_refused():
    launch = launches(kernels.scaled, torch.empty(8))[0]
    with pytest.raises(UnsupportedError, match="no compiler for the target"):
        compile_launch(launch, TritonTarget("abacus", 1))


def test_equal_launches_have_equal_keys_and_others_do_not():
    first, second = launches(kernels.scaled_twice, torch.empty(1000))
    other = launches(kernels.scaled, torch.empty(1000, dtype=torch.float16))[0]
    assert launch_key(first) == launch_key(second)
    assert launch_key(first) != launch_key(other)


def test_errors_of_host_code_come_through_and_leave_nothing_behind():
    from triton.runtime.jit import JITFunction

    before = JITFunction.run
    with pytest.raises(ZeroDivisionError):
        launches(lambda x: x / (1 // 0), torch.empty(1))
    assert JITFunction.run is before
    assert not torch.cuda.is_available()


def test_threads_record_one_after_another():
    found = {}

    def work(n: int) -> None:
        found[n] = [x.grid[0] for x in launches(kernels.scaled, torch.empty(128 * n))]

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {1: [1], 2: [2], 3: [3]}

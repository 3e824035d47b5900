from kevolve_core.interfaces import Work
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_nvidia.ncu import METRICS, Readings, parse_ncu
from kevolve_nvidia.peaks import Peaks
from kevolve_nvidia.profiler import explain, matmul_peak

PEAKS = Peaks(
    copy_bytes_per_s=3.0e12,
    read_bytes_per_s=3.0e12,
    matmul_flops_per_s={"float32": 5e13, "tfloat32": 4e14, "float16": 8e14, "bfloat16": 8e14},
    launch_seconds=3e-6,
    torch="2.11",
    date="2026-11-22",
)


def _spec(dtype: str) -> KernelSpec:
    return KernelSpec("s", Reference("", ""), (Case("a", (InputSpec("x", (8,), dtype),)),))


def test_a_kernel_at_the_memory_rate_is_at_the_roof() -> None:
    found = explain(Work(3e9, 1e9), 1e-3, PEAKS, 5e13, {}, {}, Readings())
    assert found.bottleneck == "memory"
    assert found.roofline is not None
    assert found.roofline.fraction == 1.0
    assert found.hints == ("memory_fraction 1.00 (3000 of 3000 GB/s): little is left to win",)


def test_a_short_kernel_is_bound_by_its_launch() -> None:
    found = explain(Work(1e6, 1e6), 5e-6, PEAKS, 5e13, {}, {}, Readings())
    assert found.bottleneck == "latency"
    assert found.hints[0].startswith("launch_fraction 0.60")


def test_hints_name_the_counter_they_rest_on() -> None:
    facts = {
        "spill_bytes": 64,
        "occupancy": 0.25,
        "kernels": {"k": {"occupancy_limit": "registers", "sass": {"load_global": 9}}},
    }
    readings = Readings({"dram_bytes": 6e9}, {"long_scoreboard": 12.0})
    found = explain(Work(3e9, 1e9), 4e-3, PEAKS, 5e13, facts, {}, readings)
    named = [hint.split()[0] for hint in found.hints[1:]]
    assert named == [
        "spill_bytes",
        "theoretical_occupancy",
        "sass.load_global",
        "dram_bytes",
        "stall_long_scoreboard",
    ]


def test_float32_may_use_six_bfloat16_products() -> None:
    assert matmul_peak(_spec("float32"), PEAKS) == 8e14 / 6
    assert matmul_peak(_spec("float16"), PEAKS) == 8e14


def test_ncu_output_of_two_kernels_is_summed_and_weighted_by_time() -> None:
    names = [METRICS[n] for n in ("kernel_seconds", "dram_bytes", "dram_throughput")]
    lines = ["==PROF== Connected to process 1", '"ID","Kernel Name",' + ",".join(f'"{n}"' for n in names)]
    lines += ['"","","us","Mbyte","%"', '"0","a","10","1","50"', '"1","b","30","2","90"']
    found = parse_ncu("\n".join(lines))
    assert found.kernels == ("a", "b")
    rounded = {name: round(value, 9) for name, value in found.values.items()}
    assert rounded == {"kernel_seconds": 4e-05, "dram_bytes": 3e6, "dram_throughput": 0.8, "kernels": 2.0}


def test_ncu_without_rights_gives_nothing() -> None:
    assert parse_ncu("==ERROR== ERR_NVGPUCTRPERM - no permission").values == {}

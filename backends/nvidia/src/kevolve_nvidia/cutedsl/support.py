"""How the kernels that `kevolve_nvidia.cutedsl.renderer` writes are given PyTorch's tensors: carried by
candidates. Not imported here: it needs CuTe DSL."""

# --- carried by generated candidates from here on ---
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack


def _flat(tensor, span=0, offset=0):
    """``span`` elements from ``offset`` on as one dimension, at an address that vector accesses may use."""
    flat = tensor.as_strided((span or tensor.numel(),), (1,), tensor.storage_offset() + offset)
    return flat if flat.data_ptr() % 16 == 0 else flat.clone()


_compiled = {}


def _call(key, function, *arguments):
    """Run a function of CuTe DSL on PyTorch's stream, compiled at the first call of ``key``. Tensors among
    ``arguments`` are one-dimensional."""
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)

    def given(value):
        if isinstance(value, tuple):
            return tuple(given(v) for v in value)
        return from_dlpack(value, assumed_align=16)

    values = (*(given(a) for a in arguments), stream)
    if key not in _compiled:
        _compiled[key] = cute.compile(function, *values)
    _compiled[key](*values)

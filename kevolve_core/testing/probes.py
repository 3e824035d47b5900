"""The six probe kernels of a vendor: what the conformance kit runs to see a device work, tire and break.

Every probe is a function of one argument, a float32 buffer of ``elements`` elements (``copy_twice``: of twice
as many), called as a candidate's function is: with what the runner's ``upload`` returned, giving what its
``download`` takes. No PyTorch device and no Python host code is asked for: a probe is a `Candidate` in the
backend's own language, compiled by its compiler and loaded by its runner like any other.

A backend hands them over in one of two ways:

- a method ``probe_kernels(device) -> ProbeKernels`` of the backend (`SuppliesProbes`), which is all that an
  installed wheel needs;
- ``probes = "module:attribute"`` in ``conformance.toml``, a function of the device, for probes that live with
  the tests.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from attrs import frozen

from kevolve_core.model import Candidate, Device

__all__ = ["PROBE_SYMBOL", "ProbeKernels", "SuppliesProbes"]

#: The function that every probe's entry exports.
PROBE_SYMBOL = "probe"


@frozen
class ProbeKernels:
    """Six candidates, each exporting the function `PROBE_SYMBOL` of one float32 buffer of shape (n,).

    Args:
        elements: n of all but ``copy_twice``: so many that a copy takes clearly longer than a launch.
        copy: returns a new buffer with the content of its argument. Also the good kernel that is run after
            each bad one.
        copy_twice: the same for 2n elements: twice the work.
        empty: allocates the output that ``copy`` allocates and launches a kernel that does nothing.
        out_of_range: reads or writes far outside its buffers.
        endless: never ends.
        oversized: allocates more memory than the device (or the worker's limit) has.
    """

    elements: int
    copy: Candidate
    copy_twice: Candidate
    empty: Candidate
    out_of_range: Candidate
    endless: Candidate
    oversized: Candidate


@runtime_checkable
class SuppliesProbes(Protocol):
    """A backend that brings its own probe kernels."""

    def probe_kernels(self, device: Device) -> ProbeKernels: ...

"""Host code written for a GPU, on a machine without one: names of devices and questions about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from kevolve_core.languages.triton.recording import TritonTarget

__all__ = ["device_names"]


class _Devices(TorchFunctionMode):  # type: ignore[misc]
    """Sends every device that this machine may lack to ``device``."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        given = dict(kwargs or {})
        if "device" in given and given["device"] is not None:
            given["device"] = self._moved(given["device"])
        if function is torch.Tensor.cuda:
            return args[0].to(self._device)
        if function is torch.Tensor.to:
            args = tuple(self._moved(a) for a in args)
        if function is torch.Tensor.pin_memory:
            return args[0]
        return function(*args, **given)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return self._device
        kind = value.partition(":")[0] if isinstance(value, str) else getattr(value, "type", "")
        accelerator = isinstance(value, (str, torch.device)) and kind not in {"cpu", "meta"}
        return self._device if accelerator else value


@contextmanager
def device_names(device: torch.device, target: TritonTarget) -> Iterator[None]:
    """While active, tensors asked for on an accelerator are made on ``device``, and ``torch.cuda`` answers
    for ``target`` (PyTorch uses that name for every GPU)."""
    properties = SimpleNamespace(**{"name": str(target.arch), "warp_size": target.warp_size,
                                    **target.properties})  # fmt: skip
    arch = target.arch
    capability = (arch // 10, arch % 10) if isinstance(arch, int) else (0, 0)
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_properties": lambda _=None: properties,
        "get_device_capability": lambda _=None: capability,
        "get_device_name": lambda _=None: properties.name,
        "synchronize": lambda _=None: None,
        "current_stream": lambda _=None: stream,
        "device": lambda _=None: nullcontext(),
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        stack.enter_context(_Devices(device))
        yield

"""A program's launches as one CUDA graph. Needs torch and nothing of Kevolve: exported kernels carry this
text where they ask for it."""

# --- carried by exported kernels from here on ---
import contextlib
import threading
import typing
import warnings

import torch

_DEVICE = "cuda"  # type of the devices that have graphs
_KEPT = 4  # graphs that one program keeps, of weights in different places


class Replayed:
    """Calls ``run`` by replaying the CUDA graph that its launches made at the first call.

    The first ``inputs`` tensors are a call's own: they are copied to where the graph reads them. The others
    are weights, which it reads where they lie; where they come to lie elsewhere, another graph is captured. A
    result is copied out of the graph's memory and is the caller's own. So every call computes everything
    from what it is given, and both copies are part of its time. Calls on several streams or threads wait for
    each other. No gradient is recorded, as by the kernels themselves.

    ``reason`` says why there is no graph, where there is none: then ``run`` is called as it is. So it is on
    a CPU, while somebody else captures, and under PyTorch's profiler, which would see one launch only.
    """

    def __init__(self, run: typing.Callable[..., typing.Any], inputs: int) -> None:
        self._run, self._inputs = run, inputs
        self._lock = threading.Lock()
        self.reason = ""
        self.close()

    def close(self) -> None:
        """Let the graphs and their memory go; the next call captures anew."""
        # Where the weights lie -> the graph, the inputs it reads and the results it writes.
        self._graphs: dict[typing.Any, tuple[typing.Any, list[torch.Tensor], typing.Any]] = {}
        self._stream: typing.Any = None
        self.captures = self.replays = 0

    def __call__(self, *tensors: torch.Tensor) -> typing.Any:
        if self.reason or not tensors or tensors[0].device.type != _DEVICE:
            return self._run(*tensors)
        if torch.cuda.is_current_stream_capturing() or torch.autograd._profiler_enabled():
            return self._run(*tensors)
        with self._lock, torch.no_grad():
            weights = tensors[self._inputs :]
            places = tuple(map(torch.Tensor.data_ptr, weights)), tuple(map(torch.Tensor.stride, weights))
            key = (tensors[0].device, *places)
            stream = torch.cuda.current_stream(tensors[0].device)
            if self._stream is not None and stream != self._stream:
                stream.wait_stream(self._stream)  # the graph's memory may still be in use there
            self._stream = stream
            found = self._graphs.get(key) or self._captured(key, tensors, stream)
            if found is None:
                return self._run(*tensors)
            graph, held, results = found
            for inside, given in zip(held, tensors):  # noqa: B905
                inside.copy_(given)
            graph.replay()
            self.replays += 1
            return _copied(results)

    def _captured(self, key: typing.Any, tensors: tuple[torch.Tensor, ...], stream: typing.Any) -> typing.Any:
        """The graph of ``run``, or None. It is called once before, on a stream of its own: kernels are
        loaded, constants placed and libraries' choices made then, which no graph can hold."""
        while len(self._graphs) >= _KEPT:
            del self._graphs[next(iter(self._graphs))]
        held = [torch.empty_like(t).copy_(t) for t in tensors[: self._inputs]]
        arguments = (*held, *tensors[self._inputs :])
        aside, graph = torch.cuda.Stream(stream.device), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        aside.wait_stream(stream)
        try:
            with torch.cuda.stream(aside):
                self._run(*arguments)
            stream.wait_stream(aside)
            # Around it since a capture that fails leaves its stream the current one.
            with (
                torch.cuda.stream(stream),
                torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"),
            ):
                results = self._run(*arguments)
        except RuntimeError as error:
            cause = error.__context__ or error
            self.reason = f"{type(cause).__name__}: {cause}".partition("\n")[0]
            _abandoned(stream.device, pool)
            warnings.warn(f"launched step by step, without a CUDA graph: {self.reason}", stacklevel=3)
            return None
        self.captures += 1
        self._graphs[key] = graph, held, results
        return self._graphs[key]


def _abandoned(device: torch.device, pool: typing.Any) -> None:
    """Tell PyTorch's allocator that a capture is over that failed: before 2.13 it would not know, and would
    refuse to free memory from then on (pytorch/pytorch, pull request 180395)."""
    end = getattr(torch._C, "_cuda_endAllocateToPool", None)
    if end is not None:
        with contextlib.suppress(RuntimeError):  # it knows
            end(device.index, pool)


def _copied(result: typing.Any) -> typing.Any:
    """A result with its tensors in memory of their own."""
    if isinstance(result, torch.Tensor):
        return result.clone()
    if isinstance(result, dict):
        return {name: _copied(value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return type(result)(_copied(value) for value in result)
    return result


def replayed(run: typing.Callable[..., typing.Any], inputs: int) -> typing.Callable[..., typing.Any]:
    """``run`` by a CUDA graph; its first ``inputs`` arguments differ from call to call."""
    return Replayed(run, inputs)

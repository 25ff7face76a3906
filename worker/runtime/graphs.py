"""Runs one computation at fixed shapes: with static buffers, and on CUDA as a captured graph.

The computation needs no change for this. A captured graph holds all kernels of an inference and is
launched at once; inputs and results travel through pinned memory, and the host waits once, at the
end. On a CPU the same buffers are used and the computation is called directly, so that everything
except the capture can be tested without a GPU.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Compute = Callable[..., Tensor]
"""Takes tensors by name, returns one."""
Arrays = Mapping[str, npt.NDArray[np.generic]]
Result = TypeVar("Result")

WARM_UPS = 2
"""Calls before a capture, in which libraries set themselves up and the compiler compiles."""


class Replay:
    """One computation at the shapes and dtypes of `example`."""

    def __init__(
        self,
        compute: Compute,
        example: Arrays,
        device: torch.device,
        captures: "Captures | None" = None,
    ) -> None:
        """Run `compute` on `example`; on CUDA capture it, sharing memory with all of `captures`."""
        self._compute = compute
        self._on_cuda = device.type == "cuda"
        self._host = {name: self._host_buffer(array) for name, array in example.items()}
        self._inputs = self._host
        if self._on_cuda:
            self._inputs = {name: host.to(device) for name, host in self._host.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._on_cuda:
            captures = captures or Captures(device)
            self._graph, self._output = captures.capture(self._run)
        else:
            self._output = self._run()
        self._answer = torch.empty(
            self._output.shape, dtype=self._output.dtype, pin_memory=self._on_cuda
        )

    def __call__(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """The result for `arrays`, which have the shapes of the example. The caller may keep it."""
        for name, host in self._host.items():
            np.copyto(host.numpy(), arrays[name], casting="no")
        if self._graph is None:
            self._output = self._run()
            return self._output.numpy().copy()
        for name, host in self._host.items():
            self._inputs[name].copy_(host, non_blocking=True)
        self._graph.replay()
        self._answer.copy_(self._output, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return self._answer.numpy().copy()

    def _host_buffer(self, array: npt.NDArray[np.generic]) -> Tensor:
        plain = torch.from_numpy(np.array(array))
        return plain.pin_memory() if self._on_cuda else plain

    @torch.no_grad()
    def _run(self) -> Tensor:
        return self._compute(**self._inputs)


class Captures:
    """Captures the graphs of one model, which share a stream and memory.

    Only one of them may run at a time, and its result must be taken before the next runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: Any = None

    def capture(self, compute: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        """A graph of `compute`, and its result, whose memory each replay overwrites.

        `compute` is called a few times first: what libraries and compilers set up at first use,
        and tables that are made once, must not become part of a graph.
        """
        if self._stream is None:
            self._pool = torch.cuda.graph_pool_handle()
            # One stream for all graphs: memory that a stream has used is kept for that stream.
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # No other thread of this process uses the device, so none can disturb the capture.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = compute()
        return graph, result

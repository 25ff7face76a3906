"""Running one computation at fixed shapes: static buffers, and on CUDA a graph to replay.

The computation knows nothing of this. A captured graph holds every kernel of an inference and is
launched as one; what goes in and out travels through pinned memory, and the host waits once, at
the end. On a CPU the same buffers are used and the computation is called, so that all but the
capture can be tested without a GPU.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Compute = Callable[..., Tensor]
"""Takes tensors by name, returns one."""
Arrays = Mapping[str, npt.NDArray[np.generic]]

WARM_UPS = 2
"""Calls before a capture: libraries set themselves up, and the compiler compiles."""


class Replay:
    """One computation at the shapes and dtypes of `example`."""

    def __init__(
        self, compute: Compute, example: Arrays, device: torch.device, pool: Any = None
    ) -> None:
        """Run it on `example` and, on CUDA, capture it; graphs of one `pool` share memory."""
        self._compute = compute
        self._on_cuda = device.type == "cuda"
        self._host = {name: self._host_buffer(array) for name, array in example.items()}
        self._inputs = self._host
        if self._on_cuda:
            self._inputs = {name: host.to(device) for name, host in self._host.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output = self._capture(pool) if self._on_cuda else self._run()
        self._answer = torch.empty(
            self._output.shape, dtype=self._output.dtype, pin_memory=self._on_cuda
        )

    def __call__(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """The result for `arrays`, which have the shapes of the example; a copy of its own."""
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

    @torch.no_grad()
    def _capture(self, pool: Any) -> Tensor:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            return self._compute(**self._inputs)


def shared_pool(device: torch.device) -> Any:
    """Memory that graphs on `device` may share, since one runs at a time; None on a CPU."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None

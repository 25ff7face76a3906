"""How many threads torch computes with on a CPU, what they do while they wait, and large pages."""

import os

ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "THP_MEM_ALLOC_ENABLE": "1"}
"""Read when torch is first imported: threads that wait sleep, large tensors ask for large pages.

By default OpenMP's threads spin for milliseconds: two workers on the same cores then mostly wait
for threads that spin in the other's way (22 s instead of 4 s for the same work). And by default a
layer's results come in pages of 4 KB, each with a fault of its own (52,000 in one layer of the
prefix; 1,800 with large pages).
"""


def set_threads(threads: int | None, embedded: bool) -> None:
    """Import torch and let it use so many threads, `runtime.threads`, from the calling thread.

    `ENVIRONMENT` holds unless the environment says otherwise. It is read when torch is first
    imported, so it is set here and not later.
    """
    os.environ.update(ENVIRONMENT | os.environ)
    import torch

    physical = int(torch.cpu.get_capabilities().get("num_physical_cores") or 1)
    torch.set_num_threads(choose_threads(threads, embedded, physical))


def choose_threads(threads: int | None, embedded: bool, physical: int) -> int:
    """`threads`, or where that is None all of `physical` cores that this process may use.

    The embedded model gets one: its pieces are too short to share, and tests and demos run
    several workers of it at once.
    """
    if threads is not None:
        return threads
    return 1 if embedded else max(1, min(physical, len(os.sched_getaffinity(0))))

"""Sets how many threads torch computes with on a CPU, how they wait, and the size of pages."""

import os

ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "THP_MEM_ALLOC_ENABLE": "1"}
"""Read when torch is first imported: waiting threads sleep, large tensors get large pages.

By default OpenMP's threads spin for milliseconds while they wait. Two workers on the same cores
then take each other's time (22 s instead of 4 s for the same work). And by default a layer's
results lie in pages of 4 KB, each of which costs a page fault (52,000 in one layer of the prefix,
1,800 with large pages).
"""


def set_threads(threads: int | None, embedded: bool) -> None:
    """Import torch and have it compute with `threads` threads, where the calling thread uses it.

    `ENVIRONMENT` holds unless the environment says otherwise. It is read when torch is first
    imported, so it is set here and not later.
    """
    os.environ.update(ENVIRONMENT | os.environ)
    import torch

    physical = int(torch.cpu.get_capabilities().get("num_physical_cores") or 1)
    torch.set_num_threads(choose_threads(threads, embedded, physical))


def choose_threads(threads: int | None, embedded: bool, physical: int) -> int:
    """`threads`, or where that is None one for each of `physical` cores that this process may use.

    The embedded model gets one: its operations are too short to be shared, and tests and demos
    run several workers of it at once.
    """
    if threads is not None:
        return threads
    return 1 if embedded else max(1, min(physical, len(os.sched_getaffinity(0))))

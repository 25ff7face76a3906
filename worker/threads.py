"""How many threads torch computes with on a CPU, and what they do while they wait."""

import os


def set_threads(threads: int | None, embedded: bool) -> None:
    """Import torch and let it use so many threads, `runtime.threads`, from the calling thread.

    OpenMP's threads are made to sleep, not spin, while they wait, unless the environment says
    otherwise. By default they spin for milliseconds: two workers on the same cores then mostly
    wait for threads that spin in the other's way (22 s instead of 4 s for the same work). It is
    read when torch is first imported, so here and not later.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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

"""`python -m tests.e2e.watched MODULE ...` is `python -m MODULE ...`, ended by any unpickling.

Python's own audit events tell: the C unpickler raises `pickle.find_class` before it calls
anything, whoever called it.
"""

from __future__ import annotations

import os
import runpy
import sys

UNPICKLED = 66  # exit code


def end_on_unpickling(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook."""
    if event == "pickle.find_class":
        os.write(2, f"UNPICKLED {arguments}\n".encode())
        os._exit(UNPICKLED)


if __name__ == "__main__":
    sys.addaudithook(end_on_unpickling)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

"""A child process for tests: `python -m tests.scripts.local.child [crash] [deaf]`.

Says that it is ready and sleeps; `crash` ends it before, `deaf` makes it ignore SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import time

if __name__ == "__main__":
    if "crash" in sys.argv:
        sys.exit("no such checkpoint: try model=tiny")
    if "deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("child ready", flush=True)
    time.sleep(600)

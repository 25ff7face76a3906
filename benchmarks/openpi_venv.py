"""openpi's public client and server in an environment of their own: they need numpy below 2.

`.venv-openpi` at the clone's root holds them together with what our own client needs; our code is
put on the path, so one script can use both. It is made when first asked for, and made again when
the list of packages changes. A second process that asks meanwhile waits for the first.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-openpi"
PACKAGES = (
    "openpi-client",
    "openpi-server",
    "typing_extensions",  # openpi-client imports it and does not ask for it
    "pyzmq",
    "msgpack",
    "msgpack-numpy",
)


def openpi_python() -> Path:
    """The interpreter of that environment, which is made first if necessary.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed; pip has said why.
    """
    python, marker = FOLDER / "bin" / "python", FOLDER / "installed"
    wanted = "\n".join(PACKAGES)
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (marker.exists() and marker.read_text() == wanted):
            venv.create(FOLDER, clear=True)
            # A pip of its own, and compiling what nobody imports, would take longer than the rest.
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-compile"]
            quiet = ["--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *quiet, *PACKAGES], check=True, stdout=2)
            marker.write_text(wanted)
    return python


def openpi_environment() -> dict[str, str]:
    """Environment variables with which that interpreter finds our code as well."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}

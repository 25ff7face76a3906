"""Checks that MuJoCo can render off screen through EGL, and installs what is missing where it may.

`python -m scripts.rendering` draws a small scene in a child process. If that fails on a Debian-like
machine on which we are root, the system packages are installed with apt-get; anywhere else the one
command to run is printed and the exit code is 1. `make demo` runs this before the demo.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

# libegl1 brings Mesa's EGL, libgl1-mesa-dri its software renderer; PyOpenGL opens libOpenGL.
PACKAGES = ("libegl1", "libgl1-mesa-dri", "libopengl0")
PROBE_TIMEOUT_S = 120.0
APT_TIMEOUT_S = 600.0

_RED_BALL = (
    "<mujoco><worldbody><light pos='0 0 3'/>"
    "<geom type='sphere' size='1' rgba='1 0 0 1'/></worldbody></mujoco>"
)


def draw_red_ball() -> None:
    """Render 32 x 32 pixels of a red ball.

    Raises:
        RuntimeError: the picture came out black.
    """
    import mujoco

    model = mujoco.MjModel.from_xml_string(_RED_BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, height=32, width=32) as renderer:
        renderer.update_scene(data)
        brightest = int(renderer.render().max())
    if brightest < 64:
        raise RuntimeError(f"the picture is black (brightest value {brightest} of 255)")


def probe() -> str | None:
    """The last line of what went wrong when rendering through EGL, or None when it works.

    In a process of its own, because a half-loaded libEGL can't be loaded again and may crash.
    """
    command = [sys.executable, "-c", "from scripts.rendering import draw_red_ball; draw_red_ball()"]
    environment = {**os.environ, "MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"no picture within {PROBE_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the renderer ended with exit code {done.returncode}"


def install_commands() -> list[list[str]]:
    """The apt-get calls that install PACKAGES, in order, as argument lists."""
    return [
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ]


def install() -> str | None:
    """Install PACKAGES; what went wrong as one line, or None.

    If the update fails, the installation is tried all the same: one broken source is enough to fail
    the update, and this machine's lists may have what is needed already.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    failure = None
    for command in install_commands():
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=APT_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            failure = f"{' '.join(command[:2])} took more than {APT_TIMEOUT_S:.0f} s"
            continue
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        failure = f"{' '.join(command[:2])}: {lines[-1]}" if done.returncode else None
    return failure


def advice(has_apt: bool, is_root: bool) -> str:
    """What a person has to type or look for when we can't install the packages ourselves."""
    if has_apt:
        sudo = "" if is_root else "sudo "
        return "run: " + " && ".join(sudo + " ".join(command) for command in install_commands())
    return (
        "install EGL and a renderer for it with your system's package manager "
        f"(on Debian and Ubuntu: {' '.join(PACKAGES)})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when rendering works, perhaps after an installation; else 1, with advice."""
    Flags("python -m scripts.rendering", __doc__).read(arguments)
    problem = probe()
    if problem is None:
        return 0
    print(f"off-screen rendering through EGL does not work: {problem}", file=sys.stderr)
    has_apt, is_root = shutil.which("apt-get") is not None, os.geteuid() == 0
    if has_apt and is_root:
        print(f"installing {', '.join(PACKAGES)} with apt-get", file=sys.stderr)
        failure = install()
        problem = probe()
        if problem is None:
            return 0
        print(failure or f"installed, and still: {problem}", file=sys.stderr)
    print(advice(has_apt, is_root), file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_command(main)

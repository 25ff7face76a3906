"""One context for the clients of a process, whatever interrupts the making of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import zmq

from client.contexts import Contexts

WAIT_S = 20.0

# Another thread is in the middle of making the context while the process forks, and a signal
# handler makes a client in the middle of that.
IN_THE_MIDDLE = """
import os, signal, sys, threading
import zmq
from client.contexts import Contexts

contexts, made, go_on = Contexts(), threading.Event(), threading.Event()

class Slow(zmq.Context):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        zmq.Context = Plain
        made.set()
        if sys.argv[1] == "fork":
            go_on.wait()
        else:
            os.kill(os.getpid(), signal.SIGALRM)

Plain, zmq.Context = zmq.Context, Slow
if sys.argv[1] == "fork":
    thread = threading.Thread(target=contexts.get)
    thread.start()
    made.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        contexts.get()
        os._exit(17)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
else:
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(contexts.get()))
    contexts.get()
    assert seen
"""


def _run(which: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", IN_THE_MIDDLE, which]
    done = subprocess.run(command, timeout=WAIT_S, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_fork_while_another_thread_makes_the_context() -> None:
    _run("fork")


def test_a_signal_handler_that_needs_the_context_while_it_is_made() -> None:
    _run("signal")


def test_threads_share_one() -> None:
    contexts = Contexts()
    seen: list[zmq.Context[zmq.Socket[bytes]]] = []
    threads = [threading.Thread(target=lambda: seen.append(contexts.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, seen))) == 1
    contexts.get().term()


def test_a_fork_has_another() -> None:
    contexts = Contexts()
    mine = contexts.get()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(17 if contexts.get() is not mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    mine.term()

"""A signal handler sets the interrupt wherever it finds the main thread; with `threading.Event` this hangs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from roost.node.interrupt import Interrupt

SIGNALLED = """
import signal, threading
from roost.node.interrupt import Interrupt

interrupt = {event}()
signal.signal(signal.SIGALRM, lambda *_: interrupt.set())
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
for _ in range(300_000):
    interrupt.clear()
signal.setitimer(signal.ITIMER_REAL, 0)
print("done")
"""

TWO_AT_ONCE = """
import os, signal, threading, time
from roost.node.interrupt import Interrupt

handled = 0
def handle(*_):
    global handled
    handled += 1

def strike():
    while handled < 2000:
        before = handled
        time.sleep(0.0005)  # the main thread waits by then
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        while handled < before + 2:
            time.sleep(0.0001)

signal.signal(signal.SIGINT, handle)
signal.signal(signal.SIGTERM, handle)
threading.Thread(target=strike).start()
with Interrupt() as interrupt:
    while handled < 2000:
        interrupt.wait()
        interrupt.clear()
print("done")
"""


def test_it_is_set_until_cleared() -> None:
    interrupt = Interrupt()
    assert interrupt.wait(0) is False
    interrupt.set()
    interrupt.set()
    assert interrupt.wait() is interrupt.wait() is True
    interrupt.clear()
    assert not interrupt.is_set()


def test_another_thread_wakes_it() -> None:
    interrupt = Interrupt()
    threading.Timer(0.05, interrupt.set).start()
    started = time.monotonic()
    assert interrupt.wait(30)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("program", [SIGNALLED.format(event="Interrupt"), TWO_AT_ONCE], ids=["many", "two at once"])
def test_signals_may_come_at_any_moment_and_to_any_thread(program: str) -> None:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "done\n"


def test_an_ordinary_event_would_hang() -> None:
    """It waits for itself, in one handler inside the other, until there are too many."""
    with pytest.raises((subprocess.TimeoutExpired, subprocess.CalledProcessError)):
        subprocess.run(
            [sys.executable, "-c", SIGNALLED.format(event="threading.Event")],
            capture_output=True,
            timeout=5,
            check=True,
        )

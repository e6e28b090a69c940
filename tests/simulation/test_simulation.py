"""Three devices, two nodes, one user, and all that may go wrong: in the end all have the same, and nothing is lost.

A seed is a run: one that fails names itself, and `ROOST_SIM_SEED=<seed> make test ARGS=tests/simulation` runs it again
and shows what happened.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.simulation import Simulation, simulate

RUNS, PART = 200, 20
LONG_RUNS, LONG_PART = 6_000, 100
TOLD_LINES = 400

the_one = os.environ.get("ROOST_SIM_SEED")


def check(seeds: range) -> None:
    for seed in seeds:
        try:
            simulate(seed)
        except BaseException:
            print(f"Run it again: ROOST_SIM_SEED={seed} make test ARGS=tests/simulation")
            raise


@pytest.mark.skipif(the_one is not None, reason="one seed is asked for")
@pytest.mark.parametrize("first", range(0, RUNS, PART))
def test_all_come_to_the_same_and_nothing_is_lost(first: int) -> None:
    check(range(first, first + PART))


@pytest.mark.slow
@pytest.mark.skipif(the_one is not None, reason="one seed is asked for")
@pytest.mark.parametrize("first", range(RUNS, RUNS + LONG_RUNS, LONG_PART))
def test_the_same_for_long(first: int) -> None:
    check(range(first, first + LONG_PART))


@pytest.mark.skipif(the_one is None, reason="no seed is asked for")
def test_one_seed() -> None:
    simulation = Simulation(int(the_one or ""))
    try:
        simulation.run()
    finally:
        print(*simulation.world.lines[-TOLD_LINES:], sep="\n")


def test_a_seed_gives_the_same_run_again() -> None:
    """In this process and in another, in which sets and dictionaries of text have another order."""
    first, other = simulate(7), simulate(8)
    assert simulate(7).lines == first.lines
    assert first.digest != other.digest
    for hashing in ("1", "2"):
        program = "from tests.simulation.simulation import simulate; print(simulate(7).digest)"
        environment = dict(os.environ) | {"PYTHONHASHSEED": hashing}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == first.digest


def test_the_runs_meet_what_they_are_for() -> None:
    """Else they would show nothing: conflicts, refusals, snapshots in the middle, crashes on both sides."""
    missing = {
        "is closed: 4410", "has a snapshot of", "node1 dies", "dies before it persists", "dies after it has persisted",
        "breaks off a commit: after", "breaks off a commit: late", "is folded up to", "a day goes by", ":merged",
        ":known", ":refused", "is refused: unavailable", "moody is siblings now", "gives a snapshot up",
        "the web has written",
    }  # fmt: skip
    for seed in range(100):
        told = "\n".join(simulate(seed).lines)
        missing = {event for event in missing if event not in told}
        if not missing:
            return
    assert not missing

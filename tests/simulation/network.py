"""What lies between devices and nodes: connections that break at any moment, and requests that may come twice.

A connection keeps order, as TCP does, until it breaks; then whatever is under way is lost, and each side finds out in
its own time. Requests are lost, doubled and delayed each on its own, and so are their answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.simulation.world import MS, S, World


class Weather(NamedTuple):
    """How bad the network is: probabilities, and a mean delay in microseconds."""

    loss: float
    double: float
    breaks: float
    delay: int


FAIR = Weather(0.0, 0.0, 0.0, 20 * MS)


class Connection:
    """Between a device and a node. `to_device` and `to_node` take what arrives; None: it is over."""

    def __init__(self, world: World, weather: Weather) -> None:
        self._world = world
        self._weather = weather
        self._arrival = {"device": 0, "node": 0}
        self.ends: dict[str, Callable[[Any], None]] = {}
        self.is_open = True

    def send(self, to: str, message: object) -> None:
        """Send to the `device` or the `node`: it arrives later, in order, or never."""
        world = self._world
        if self.is_open and world.chance(self._weather.breaks):
            self.cut()
        weather = FAIR if world.calm else self._weather
        self._arrival[to] = max(self._arrival[to], world.now + world.about(weather.delay))
        world.after(self._arrival[to] - world.now, lambda: self._arrive(to, message))

    def cut(self) -> None:
        """Nothing arrives any more."""
        if self.is_open:
            self.is_open = False
            for end in self.ends.values():
                self._world.after(self._world.about(300 * MS), lambda end=end: end(None))  # type: ignore[misc]

    def _arrive(self, to: str, message: object) -> None:
        if self.is_open:
            self.ends[to](message)


def request(
    world: World, weather: Weather, ask: Callable[[Callable[[Any], None]], None], heard: Callable[[Any], None]
) -> None:
    """Ask a node something over a connection of its own. `heard` gets the answers: one, none, or the same again.

    None tells that it has been waited for long enough; an answer may still come.
    """
    weather = FAIR if world.calm else weather

    def answer(message: object) -> None:
        for _ in range(2 if world.chance(weather.double) else 1):
            if not world.chance(weather.loss):
                world.after(world.about(weather.delay), lambda: heard(message))

    for _ in range(2 if world.chance(weather.double) else 1):
        if not world.chance(weather.loss):
            world.after(world.about(weather.delay), lambda: ask(answer))
    world.after(10 * S, lambda: heard(None))

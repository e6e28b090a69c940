"""The TCP port, kept from the first check to the last worker.

Workers bind it each for itself (`SO_REUSEPORT`), so without a reservation two servers could share a port unseen,
and a stranger could take it while a worker starts again.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from typing import NamedTuple

from roost.node.directory import CannotStart

NUMBER_MAX = 65_535
PATIENCE_S = 2.0
"""How long the workers of a server that was killed may take to leave the port."""


class Port(NamedTuple):
    """A reserved port: `host` is an address, `number` is never 0. The port is kept until `reservation` is closed."""

    host: str
    number: int
    reservation: socket.socket

    @property
    def reachable(self) -> str:
        """The address by which somebody on this machine reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # compared, not bound

    @property
    def url(self) -> str:
        """The same as a URL."""
        host = f"[{self.reachable}]" if ":" in self.reachable else self.reachable
        return f"http://{host}:{self.number}"


def reserve(host: str, number: int) -> Port:
    """Reserve a port, or with `number` 0 any free one. Raises `CannotStart`."""
    if not 0 <= number <= NUMBER_MAX:
        raise CannotStart(f"{number} is not a port: choose one from 1 to {NUMBER_MAX} with --port.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise CannotStart(f"{host} is not an address of this machine: choose another with --host.") from error
    deadline = time.monotonic() + PATIENCE_S
    while True:
        reservation = socket.socket(family, socket.SOCK_STREAM)
        try:
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reservation.bind(address)
        except OSError as error:
            reservation.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise CannotStart(_why(host, number, error)) from error
            time.sleep(0.05)
        else:
            break
    # From here on our workers may bind it too, and nobody else: the kernel compares these as they are at that time.
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    if sys.platform == "linux":
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound = reservation.getsockname()
    if sys.platform != "linux":  # the parent process binds for all workers there
        reservation.close()
    return Port(bound[0], bound[1], reservation)


def _why(host: str, number: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {number} of {host} is taken: stop what listens there, or choose another with --port."
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine: choose another with --host."
        case errno.EACCES:
            return f"Port {number} is for root only: choose one above 1023 with --port."
        case _:
            return f"Port {number} of {host} cannot be used ({error.strerror}): choose another with --port."

"""Where a request really comes from, behind proxies that are trusted to say so.

A proxy appends the address that it was reached from to a header, so the header is read from its end: what a trusted
proxy wrote is believed, and the first address that is none of theirs is the caller's. Whatever stands before that was
written by the caller, and may say anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

HEADER_CHARS_MAX = 512
"""Of a longer header only the end is looked at."""
CACHED_MAX = 2_000
# An element of RFC 7239, read from its end: what a caller wrote before it may open a quote that never ends, and what a
# proxy tells of the caller's (`host`) may hold commas and semicolons, in quotes.
_backwards = re.compile(r'(?:[^",\\]|"(?:"\\|[^"])*"(?!\\))*').match
_parameter = re.compile(r'[\s;]*([^=;"\s]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"\s]*)\s*(?=;|$)').match
_with_port = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d+").fullmatch
_in_brackets = re.compile(r"\[([^\]]*)\](?::\d+)?").fullmatch


class Proxies:
    """Networks (`10.0.0.0/8`, `::1`) whose word for an address counts. `forwarded`: RFC 7239's header is theirs."""

    def __init__(self, networks: Sequence[str], *, forwarded: bool = False) -> None:
        self._networks = [ip_network(one) for one in networks]
        self._read = _forwarded if forwarded else _x_forwarded_for
        self.header = b"forwarded" if forwarded else b"x-forwarded-for"
        """The header that they write; any other is the caller's own."""
        self.trusted = bool(networks)
        """Whether any proxy is."""
        self._peers: dict[str, tuple[str, bool]] = {}
        self._known: dict[tuple[str, str], str] = {}

    def address(self, peer: str, told: str | None) -> str:
        """The caller's address: `peer` opened the connection, `told` is what the header says (None: nothing).

        In one way of writing it: IPv4 addresses as such, no zone. Empty if `peer` is no address.
        """
        found = self._peers.get(peer)
        if found is None:
            parsed = _parse(peer)
            found = ("", False) if parsed is None else (str(parsed), self._trusts(parsed))
            _remember(self._peers, peer, found)
        address, trusted = found
        if told is None or not trusted:
            return address
        told = told[-HEADER_CHARS_MAX:]
        caller = self._known.get((address, told))
        if caller is None:
            caller = self._caller(address, told)
            _remember(self._known, (address, told), caller)
        return caller

    def _caller(self, proxy: str, told: str) -> str:
        found = proxy
        for hop in reversed(self._read(told)):
            address = _parse(hop)
            if address is None:
                break
            found = str(address)
            if not self._trusts(address):
                break
        return found

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _x_forwarded_for(header: str) -> list[str]:
    hops = [hop.strip() for hop in header.split(",")]
    return [port[1] if (port := _with_port(hop) or _in_brackets(hop)) else hop for hop in hops]


def _forwarded(header: str) -> list[str]:
    hops: list[str] = []
    header, begin = header[::-1], 0
    while found := _backwards(header, begin):
        hops.append(_node(found[0][::-1]))
        if header[found.end() : found.end() + 1] != ",":
            break
        begin = found.end() + 1
    return hops[::-1]


def _node(element: str) -> str:
    """The `for` of an element, without a port; empty where it has none."""
    place = 0
    while found := _parameter(element, place):
        if found[1].lower() == "for":
            return _x_forwarded_for(found[2].strip('"'))[-1]
        place = found.end()
    return ""


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    with suppress(ValueError):
        address = ip_address(text.partition("%")[0])
        return getattr(address, "ipv4_mapped", None) or address
    return None


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    """Keep a value, in place of the oldest where there are many."""
    if len(cache) >= CACHED_MAX:
        del cache[next(iter(cache))]
    cache[key] = value

"""Network addresses, as they are counted."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_address

SUBSCRIBER_BITS = 64
"""The part of an IPv6 address that tells subscribers apart: each has all the addresses that begin with it."""


def subscriber(address: str) -> str:
    """What an address is counted by: itself, and of IPv6 the network of its subscriber. Empty if it is none."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 4:  # noqa: PLR2004
        return address
    return str(parsed.ipv4_mapped or IPv6Network((parsed, SUBSCRIBER_BITS), strict=False))

"""Whose word for an address counts: a caller can write into a header whatever it likes, and is not believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost.wire.proxies import CACHED_MAX, Proxies

OURS = ("10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1")
TRUSTED = st.sampled_from(["10.0.0.1", "10.255.0.7", "2001:db8:1::5", "127.0.0.1"])
STRANGER = st.sampled_from(["203.0.113.9", "198.51.100.7", "2001:db8:2::1", "11.0.0.1"])
WRITTEN = st.one_of(st.text(st.characters(codec="latin-1", exclude_characters=",")), TRUSTED, STRANGER)


@given(st.lists(WRITTEN, max_size=5), STRANGER, st.lists(TRUSTED, max_size=3), TRUSTED)
def test_the_last_stranger_before_our_proxies_is_the_caller(
    lies: list[str], caller: str, ours: list[str], peer: str
) -> None:
    """Each proxy appends who spoke to it; what stands before the caller's address is the caller's own."""
    header = ", ".join([*lies, caller, *ours])
    assert Proxies(OURS).address(peer, header) == caller


@given(st.lists(WRITTEN, max_size=5), STRANGER)
def test_nobody_else_is_believed(lies: list[str], peer: str) -> None:
    assert Proxies(OURS).address(peer, ", ".join(lies)) == peer
    assert Proxies(()).address("10.0.0.1", ", ".join(lies)) == "10.0.0.1"


@given(st.lists(WRITTEN, max_size=5), TRUSTED)
def test_what_is_no_address_leaves_the_last_that_was_one(lies: list[str], peer: str) -> None:
    assert Proxies(OURS).address(peer, ", ".join([*lies, "unknown"])) == peer
    assert Proxies(OURS).address(peer, ", ".join([*lies, "_hidden, 10.3.3.3"])) == "10.3.3.3"


def test_addresses_are_written_in_one_way() -> None:
    proxies = Proxies(OURS)
    assert proxies.address("::ffff:203.0.113.9", None) == "203.0.113.9"
    assert proxies.address("::ffff:10.0.0.1", "203.0.113.9:4711") == "203.0.113.9"
    assert proxies.address("10.0.0.1", "[2001:DB8:2:0::1]:4711") == "2001:db8:2::1"
    assert proxies.address("fe80::1%eth0", None) == "fe80::1"
    assert proxies.address("", None) == proxies.address("testclient", "203.0.113.9") == ""


def test_the_standard_header_is_read_where_it_is_named() -> None:
    proxies = Proxies(OURS, forwarded=True)
    assert proxies.header == b"forwarded"
    told = 'for=198.51.100.1, For="[2001:db8:2::1]:47";proto=https;by=10.0.0.2, proto=http; for=10.0.0.3'
    assert proxies.address("10.0.0.1", told) == "2001:db8:2::1"
    assert proxies.address("10.0.0.1", "for=203.0.113.9:80, for=unknown") == "10.0.0.1"
    assert proxies.address("10.0.0.1", "by=203.0.113.9") == "10.0.0.1"


def test_what_is_remembered_is_bounded() -> None:
    proxies = Proxies(OURS)
    for number in range(CACHED_MAX + 50):
        told = f"{'x' * 10_000}, 203.0.{number >> 8}.{number & 255}"
        assert proxies.address("10.0.0.1", told) == told.rsplit(maxsplit=1)[-1]
        assert proxies.address(f"11.0.{number >> 8}.{number & 255}", told) != told.rsplit(maxsplit=1)[-1]
    assert len(proxies._known) == len(proxies._peers) == CACHED_MAX
    assert max(len(told) for _, told in proxies._known) <= 512


HOST = st.text(st.characters(codec="latin-1"), max_size=100)
LIES = st.one_of(HOST, st.sampled_from(['for="', 'for=198.51.100.7;x="', '"\\', 'a="b\\"']))
CLAIMS = st.sampled_from(["x,for=198.51.100.7", "a;for=198.51.100.7", 'a", for=198.51.100.7;x="', "\\"])
FORM = st.sampled_from(["for={}", 'by=10.0.0.1;host={host};for="{}:80"', "for={};host={host};proto=https"])


@given(LIES, st.one_of(HOST, CLAIMS), FORM)
def test_what_a_proxy_quotes_of_the_callers_is_not_believed(lies: str, host: str, form: str) -> None:
    """A caller chooses its `Host`, and what stands in the header before a proxy appends to it."""
    quoted = '"' + host.replace("\\", "\\\\").replace('"', '\\"') + '"'
    told = form.format("203.0.113.9", host=quoted)
    assert Proxies(OURS, forwarded=True).address("10.0.0.1", f"{lies}, {told}") == "203.0.113.9"

"""The TypeScript client in Chromium: IndexedDB, tabs, and a network that comes and goes, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext, Page, WebSocket

from tests.browser.conftest import start
from tests.support.server import Server, until

Profile = Callable[[], BrowserContext]
Tab = Callable[[BrowserContext], Page]

SYNCED = "roost.synced({signal: AbortSignal.timeout(60000)})"


def value(server: Server, user: str, collection: str, key: str) -> Any:
    """A document as the server has it; None where there is none."""
    with server.client() as client:
        response = client.get(f"/v1/users/{user}/docs/{collection}/{key}")
        return response.json() if response.status_code == 200 else None


def shown(page: Page, collection: str, key: str) -> Any:
    """A document as the page shows it."""
    return page.evaluate("([name, key]) => roost.collection(name).get(key)", [collection, key])


def test_two_browsers_see_the_same(server: Server, user: str, profile: Profile, tab: Tab) -> None:
    phone, laptop = tab(profile()), tab(profile())
    phone.evaluate("roost.collection('preferences').put('ui', {theme: 'dark'})")
    until(lambda: shown(laptop, "preferences", "ui") == {"theme": "dark"})
    laptop.evaluate("roost.collection('preferences').set('ui', '/theme', 'light')")
    until(lambda: shown(phone, "preferences", "ui") == {"theme": "light"})
    phone.wait_for_function("roost.status.devices.length === 2")


def test_edits_outlive_the_network_and_the_page(server: Server, user: str, profile: Profile, tab: Tab) -> None:
    context = profile()
    page = tab(context)
    page.evaluate(f"roost.collection('carts').put('main', {{apples: 1}}).then(() => {SYNCED})")
    device = page.evaluate("roost.device")

    context.set_offline(True)
    page.wait_for_function("roost.status.connection !== 'live'")
    page.evaluate("roost.collection('carts').inc('main', '/apples', 2)")
    assert shown(page, "carts", "main") == {"apples": 3}
    page.reload()
    start(page, server, user)
    assert shown(page, "carts", "main") == {"apples": 3}
    assert page.evaluate("roost.device") == device
    assert value(server, user, "carts", "main") == {"apples": 1}

    with server.client() as client:
        client.put(f"/v1/users/{user}/docs/notes/a", json="meanwhile")
    context.set_offline(False)
    page.evaluate(SYNCED)
    assert shown(page, "notes", "a") == "meanwhile"
    assert value(server, user, "carts", "main") == {"apples": 3}


def test_tabs_share_one_connection_and_one_replica(server: Server, user: str, profile: Profile, tab: Tab) -> None:
    with server.client() as client:
        client.put(f"/v1/users/{user}/docs/notes/a", json=0)
    context = profile()
    sockets: list[WebSocket] = []

    def opened(socket: WebSocket) -> None:
        sockets.append(socket)

    context.on("page", lambda page: page.on("websocket", opened))
    first, second, third = tab(context), tab(context), tab(context)
    for page in (first, second, third):
        page.evaluate(SYNCED)
    assert len(sockets) == 1
    assert [page.evaluate("roost.status.leader") for page in (first, second, third)] == [True, False, False]
    assert len({page.evaluate("roost.device") for page in (first, second, third)}) == 1

    third.evaluate("roost.collection('notes').put('a', 1)")
    assert shown(third, "notes", "a") == 1
    for page in (first, second):
        page.wait_for_function("roost.collection('notes').get('a') === 1")
    with server.client() as client:
        client.put(f"/v1/users/{user}/docs/notes/b", json=2)
    for page in (first, second, third):
        page.wait_for_function("roost.collection('notes').get('b') === 2")
    assert len(sockets) == 1


def test_the_tab_with_the_connection_is_closed_amid_a_push(
    server: Server, user: str, profile: Profile, tab: Tab
) -> None:
    context = profile()
    first, second = tab(context), tab(context)
    second.evaluate(SYNCED)
    first.evaluate("roost.disconnect()")
    second.wait_for_function("roost.status.connection === 'offline'")
    many = "for (let n = 0; n < 400; n++) roost.collection('carts').inc('main', '/n')"
    first.evaluate(many)
    second.evaluate(many)
    first.wait_for_function("roost.collection('carts').get('main').n === 800 && roost.status.pending === 800")
    first.evaluate("roost.connect()")
    until(lambda: value(server, user, "carts", "main") is not None)
    first.close()

    second.wait_for_function("roost.status.leader")
    second.evaluate("roost.collection('carts').inc('main', '/n')")
    second.evaluate(SYNCED)
    assert shown(second, "carts", "main") == {"n": 801}
    assert value(server, user, "carts", "main") == {"n": 801}


def test_what_lost_a_conflict_is_in_the_inbox(server: Server, user: str, profile: Profile, tab: Tab) -> None:
    away, other = profile(), profile()
    phone, laptop = tab(away), tab(other)
    phone.evaluate(f"roost.collection('preferences').put('ui', {{theme: 'light'}}).then(() => {SYNCED})")
    laptop.wait_for_function("roost.collection('preferences').get('ui')?.theme === 'light'")
    away.set_offline(True)
    phone.wait_for_function("roost.status.connection !== 'live'")
    phone.evaluate("roost.collection('preferences').set('ui', '/theme', 'dark')")
    laptop.evaluate(f"roost.collection('preferences').set('ui', '/theme', 'red').then(() => {SYNCED})")
    away.set_offline(False)
    phone.evaluate(SYNCED)
    until(lambda: shown(phone, "preferences", "ui") == shown(laptop, "preferences", "ui") == {"theme": "red"})

    conflicts = phone.evaluate("roost.conflicts()")
    assert [(conflict["policy"], conflict["outcome"], conflict["key"]) for conflict in conflicts] == [
        ("lww", "merged", "ui")
    ]
    laptop.wait_for_function("roost.conflicts().length === 1")
    laptop.evaluate("roost.dismiss(roost.conflicts()[0].id)")
    phone.wait_for_function("roost.conflicts().length === 0")

"""The demo page: two devices that a person could have before them, doing what the page is there to show."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from roost.cli import demo_page
from tests.support.server import Server

SAME = "Both show the same"
numbers = count(1)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, because the demo defines collections."""
    with Server(tmp_path_factory.mktemp("demo") / "data") as server:
        yield server


class Person:
    """A fresh user with the page before them, and what went wrong in it."""

    def __init__(self, server: Server, page: Page) -> None:
        self.user = f"demo-{next(numbers)}"
        self.server = server
        self.page = page
        self.trouble: list[str] = []
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("console", lambda message: self.trouble.append(message.text) if message.type == "error" else None)
        demo_page.prepare(server.url, server.admin(), self.user)
        page.goto(f"{server.url}/demo#token={server.token(self.user)}")
        self.laptop, self.phone = (page.locator(f".device.{name}") for name in ("laptop", "phone"))
        self.alike()

    def alike(self) -> None:
        """Wait until both devices are live and show the same."""
        for device in (self.laptop, self.phone):
            expect(device.locator(".status")).to_have_text("live")
            expect(device.locator(".pending")).to_be_empty()
        expect(self.page.locator("#together")).to_have_text(SAME)

    def network(self, *, on: bool) -> None:
        for device in (self.laptop, self.phone):
            device.locator(".network").set_checked(on)
            expect(device.locator(".status")).to_have_text("live" if on else "offline")


@pytest.fixture
def person(own: Server, browser: Browser) -> Iterator[Person]:
    context = browser.new_context()
    person = Person(own, context.new_page())
    yield person
    context.close()
    assert person.trouble == []


def wish(device: Locator, name: str) -> None:
    device.locator(".wish").fill(name)
    device.locator(".add button").click()


def note(device: Locator, text: str) -> None:
    device.locator(".text").fill(text)
    device.locator(".save").click()


def test_an_edit_appears_on_the_other_device_and_in_the_log(person: Person) -> None:
    wish(person.laptop, "A head torch")
    expect(person.phone.locator(".list")).to_contain_text("A head torch")
    person.phone.locator(".themes button[value=dark]").click()
    expect(person.laptop.locator(".screen")).to_have_attribute("data-theme", "dark")
    person.laptop.locator(".languages").select_option("fr")
    expect(person.phone.locator(".wishes h3")).to_have_text("Envies")
    expect(person.page.locator("#events li.laptop").first).to_contain_text("A head torch")
    expect(person.page.locator("#events li.phone").first).to_contain_text("theme Dark")


def test_two_devices_that_were_offline_come_to_show_the_same(person: Person) -> None:
    laptop, phone = person.laptop, person.phone
    person.network(on=False)
    laptop.locator(".more").click(click_count=2)
    laptop.locator(".larger").click()
    wish(laptop, "A head torch")
    phone.locator(".less").click()
    phone.locator(".themes button[value=dark]").click()
    phone.get_by_label("A warm sleeping bag", exact=True).check()
    expect(laptop.locator(".pending")).to_have_text("4 edits waiting")
    expect(phone.locator(".pending")).to_have_text("3 edits waiting")
    expect(person.page.locator("#together")).to_have_text("They differ")
    person.network(on=True)
    person.alike()
    for device in (laptop, phone):
        expect(device.locator("output.tea")).to_have_text("3")
        expect(device.locator("output.size")).to_have_text("16")
        expect(device.locator(".list li")).to_have_count(4)
        expect(device.get_by_label("A warm sleeping bag", exact=True)).to_be_checked()
        expect(device.locator(".conflicts li")).to_have_count(0)
    with person.server.client() as http:
        ui = http.get(f"/v1/users/{person.user}/docs/preferences/ui").json()
    assert ui == {"theme": "dark", "language": "en", "size": 16, "tea": 3}


def test_a_conflict_is_in_both_inboxes_with_what_was_kept_and_lost(person: Person) -> None:
    laptop, phone = person.laptop, person.phone
    person.network(on=False)
    laptop.locator(".themes button[value=dark]").click()
    expect(laptop.locator(".screen")).to_have_attribute("data-theme", "dark")
    phone.locator(".themes button[value=light]").click()
    person.network(on=True)
    person.alike()
    for device in (laptop, phone):
        expect(device.locator(".screen")).to_have_attribute("data-theme", "light")
        expect(device.locator("dd.kept")).to_have_text("Theme Light")
        expect(device.locator("dd.lost")).to_contain_text("Theme Dark")
    phone.locator(".reverse").click()
    for device in (laptop, phone):
        expect(device.locator(".screen")).to_have_attribute("data-theme", "dark")
        expect(device.locator(".conflicts li")).to_have_count(0)


def test_what_was_set_aside_can_be_dismissed(person: Person) -> None:
    laptop, phone = person.laptop, person.phone
    person.network(on=False)
    laptop.get_by_label("× A small stove").click()
    phone.get_by_label("A small stove", exact=True).check()
    person.network(on=True)
    person.alike()
    for device in (laptop, phone):
        expect(device.locator(".list")).not_to_contain_text("A small stove")
        expect(device.locator(".conflicts")).to_contain_text("A small stove")
    laptop.locator(".dismiss").click()
    for device in (laptop, phone):
        expect(device.locator(".nothing")).to_be_visible()


def test_two_notes_stand_until_somebody_chooses(person: Person) -> None:
    person.network(on=False)
    note(person.laptop, "the boat")
    note(person.phone, "the tent")
    person.network(on=True)
    person.alike()
    for device in (person.laptop, person.phone):
        expect(device.locator(".versions span")).to_have_text(["the boat", "the tent"])
    person.phone.locator(".versions div", has_text="the boat").get_by_role("button").click()
    for device in (person.laptop, person.phone):
        expect(device.locator(".versions")).to_be_hidden()
        expect(device.locator(".text")).to_have_value("the boat")


def test_what_was_not_sent_survives_a_reload(person: Person) -> None:
    person.network(on=False)
    wish(person.phone, "Thick socks")
    expect(person.phone.locator(".pending")).to_have_text("1 edit waiting")
    person.page.reload()
    expect(person.laptop.locator(".list")).to_contain_text("Thick socks")
    person.alike()


def test_the_button_shows_a_conflict(person: Person) -> None:
    person.page.clock.install()
    person.page.locator("#play").click()
    for _ in range(12):
        person.page.clock.run_for(900)
    person.alike()
    expect(person.phone.locator(".conflicts li")).to_have_count(1)
    expect(person.phone.locator(".versions span")).to_have_count(2)
    expect(person.phone.locator("output.tea")).to_have_text("5")


def test_the_token_goes_to_no_server_and_without_one_the_page_says_what_to_do(own: Server, browser: Browser) -> None:
    page = browser.new_context().new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    token = own.token("somebody")
    page.goto(f"{own.url}/demo#token={token}")
    expect(page.locator("#events")).to_be_visible()
    assert token not in page.url
    assert not any(token in url for url in asked)
    fresh = browser.new_context().new_page()
    fresh.goto(f"{own.url}/demo")
    expect(fresh.locator("#notice")).to_contain_text("roost demo")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(person: Person, width: int) -> None:
    person.page.set_viewport_size({"width": width, "height": 800})
    wide = person.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width

"""The customers of a made-up shop, and what they do: the workload of `roost shop`.

Everything is drawn from one seeded generator before anything is sent, so a seed always gives the same customers,
the same documents and the same visits, whatever the network does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from roost.client import Json, User, VersionConflict

FIRST = (  # noqa: SIM905  # as words they fit a page
    "Ada Amina Anna Ben Carla Chen Dario Elif Emma Farid Femi Grace Hana Ines Ivan Jonas Juno Kofi Lara Leo Lin "
    "Luca Maja Marek Mia Milan Nadia Noah Nora Olu Omar Paula Priya Quinn Rosa Sami Sofia Tariq Uma Vera Yuki Zoe"
).split()
LAST = (  # noqa: SIM905  # the same
    "Abel Bauer Bianchi Costa Dubois Eriksen Fischer Garcia Haas Ito Jansen Kaya Kowalski Lange Lopez Mensah Meyer "
    "Moreau Nagy Novak Okafor Olsen Patel Peters Reyes Rossi Sato Silva Smith Tanaka Virtanen Weber Wolf Yilmaz"
).split()
CITIES = (
    ("Berlin", "DE", "10115"),
    ("Lyon", "FR", "69001"),
    ("Turin", "IT", "10121"),
    ("Porto", "PT", "4000"),
    ("Ghent", "BE", "9000"),
    ("Gdansk", "PL", "80-001"),
    ("Austin", "US", "78701"),
    ("Osaka", "JP", "530-0001"),
)
STREETS = ("Linden Street", "Mill Lane", "Harbour Road", "Station Square", "Garden Walk", "Market Street")
THINGS = (("mug", 12.90), ("lamp", 49.00), ("blanket", 64.50), ("notebook", 8.50), ("kettle", 79.00))
PRODUCTS: tuple[Json, ...] = tuple(
    {"sku": f"{make[0]}{thing[0]}-{number:02}".upper(), "name": f"{make} {thing}", "price": price}
    for number, (make, (thing, price)) in enumerate(
        itertools.product(("Blue", "Oak", "Linen", "Copper", "Walnut", "Stone"), THINGS)
    )
)
LANGUAGES = ("en", "de", "fr", "it", "pt", "pl", "ja")

Act = Callable[[User], Any]


class Customer(NamedTuple):
    """Who buys: the documents they begin with, and what they do then, in order."""

    user: str
    documents: list[tuple[str, str, Json]]
    visits: list[Act]
    two_devices: bool


def customers(seed: int, count: int) -> Iterator[Customer]:
    """`count` customers, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311  # made up, not secret
    for number in range(count):
        first, last = rng.choice(FIRST), rng.choice(LAST)
        yield Customer(
            user=f"{first}.{last}.{number:04}".lower(),
            documents=_documents(rng, first, last),
            visits=[_visit(rng, number, order) for order in range(rng.choices((1, 2, 3, 20), (50, 30, 19, 1))[0])],
            two_devices=_happens(rng, 0.1),
        )


def add(product: Json) -> Callable[[Json], Json]:
    """What putting a product into a cart does to the cart (None: there is no cart yet)."""

    def change(cart: Json) -> Json:
        items = {item["sku"]: item for item in (cart or {}).get("items", ())}
        item = items.setdefault(product["sku"], {**product, "quantity": 0})
        item["quantity"] += 1
        return {"items": list(items.values()), "currency": "EUR"}

    return change


def total(cart: Json) -> float:
    """What a cart costs."""
    cost: float = sum(item["price"] * item["quantity"] for item in cart["items"])
    return round(cost, 2)


async def two_devices(user: User, phone: Json, laptop: Json) -> tuple[int, bool]:
    """One customer, two devices, one cart: both read it, both write it. Neither device's edit may be lost.

    Returns how many conflicts were met, and whether the cart holds both products in the end.
    """
    carts = user.docs("carts")
    seen = await carts.get("main")
    version, cart = (seen.version, seen.value) if seen else (0, None)
    met = 0
    await carts.put("main", add(phone)(cart), if_version=version)
    try:
        # The laptop has not seen what the phone wrote, and says which version it means to replace.
        await carts.put("main", add(laptop)(cart), if_version=version)
    except VersionConflict:
        met += 1
        # `update` reads again, adds the product to what is there now, and writes on condition.
        await carts.update("main", add(laptop))
    after = await carts.get("main")
    names = {item["sku"] for item in after.value["items"]} if after else set()
    return met, {phone["sku"], laptop["sku"]} <= names


def _happens(rng: random.Random, chance: float) -> bool:
    return rng.random() < chance


def _documents(rng: random.Random, first: str, last: str) -> list[tuple[str, str, Json]]:
    city, country, postcode = rng.choice(CITIES)
    name = f"{first} {last}"
    address = {
        "name": name,
        "street": f"{rng.choice(STREETS)} {rng.randint(1, 120)}",
        "postcode": postcode,
        "city": city,
        "country": country,
    }
    documents: list[tuple[str, str, Json]] = [
        ("profile", "main", {"name": name, "email": f"{first}.{last}@example.com".lower(), "since": 2026}),
        ("preferences", "ui", {"theme": rng.choice(("light", "dark")), "language": rng.choice(LANGUAGES)}),
        ("preferences", "mail", {"news": _happens(rng, 0.4), "orders": True}),
        ("addresses", "home", address),
    ]
    if _happens(rng, 0.3):
        documents.append(("addresses", "work", {**address, "street": f"{rng.choice(STREETS)} {rng.randint(1, 120)}"}))
    documents += [("wishes", product["sku"], product) for product in rng.sample(PRODUCTS, rng.randint(0, 4))]
    return documents


def _visit(rng: random.Random, number: int, order: int) -> Act:
    """One thing that a customer does, decided now, done later."""
    product = rng.choice(PRODUCTS)
    kind = rng.choices(("cart", "wish", "order", "theme", "move"), (45, 20, 15, 15, 5))[0]
    street = f"{rng.choice(STREETS)} {rng.randint(1, 120)}"

    look = rng.choice(("light", "dark", "sepia"))

    async def cart(user: User) -> None:
        await user.docs("carts").update("main", add(product))

    async def wish(user: User) -> None:
        await user.docs("wishes").put(product["sku"], product)

    async def theme(user: User) -> None:
        await user.docs("preferences").merge("ui", {"theme": look, "size": 14})

    async def move(user: User) -> None:
        await user.docs("addresses").patch("home", [{"op": "replace", "path": "/street", "value": street}])

    async def buy(user: User) -> None:
        # The order is written and the cart emptied together, or neither is.
        carts = user.docs("carts")
        bought = await carts.update("main", add(product))
        value = {**bought.value, "total": total(bought.value), "status": "paid"}
        batch = user.batch().put("orders", f"{number:04}-{order}", value)
        await batch.delete("carts", "main", if_version=bought.version).commit()

    return {"cart": cart, "wish": wish, "order": buy, "theme": theme, "move": move}[kind]

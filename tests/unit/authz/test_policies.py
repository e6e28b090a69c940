"""Policies: what ships is what is told of it, mistakes are found, and what is remembered is what Cedar would say.

The last is a property over random policies and random requests. It is held against an asker that leaves nothing out:
every id stands in the question as it is, and every attribute, whether or not a policy mentions it.
"""

from __future__ import annotations

import json
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.authz.policy import check, words
from roost.authz.policy.check import PolicyFaults
from roost.authz.policy.compiled import Compiled
from roost.authz.policy.model import ACTIONS, ON_DOCUMENTS, ON_SYSTEM, Action, in_scope
from roost.authz.policy.policies import Policies, encode, from_directory
from roost.authz.principal import Caller, Kind, Origin, Principal
from roost.core.definitions import Privacy
from roost.core.ids import INBOX

HOME = "eu"
START = datetime(2026, 11, 22, 6, 30, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def ships(clock: Clock | None = None) -> Policies:
    return Policies(HOME, clock or Clock())


def stored(policies: Policies, **texts: str) -> Policies:
    policies.learn({name: encode({"text": text}) for name, text in texts.items()}, anew=False)
    return policies


def caller(kind: Kind, name: str = "x", purpose: str | None = None, scopes: str = "", address: str = "") -> Caller:
    return Caller(Principal(kind, name, scopes=frozenset(scopes.split())), Origin(address, purpose))


def allowed(
    policies: Policies,
    who: Caller,
    action: Action,
    user: str | None = None,
    collection: str | None = None,
    privacy: Privacy = "personal",
) -> bool:
    return policies.decide(who, action, user, collection, privacy if collection else None).allowed


# What ships


def test_the_schema_has_the_actions_that_can_be_asked_for() -> None:
    text = check.shipped("roost.cedarschema")
    named = {name.strip(" ,") for line in text.splitlines() if line.startswith("action ") for name in line[7:].split()}
    assert named - {"appliesTo", "{"} == set(ACTIONS)


OWN = {"read", "unmask", "write", "see", "create", "export", "erase", "sessions"}
SERVICES = OWN | {"import", "list", "metrics"}
TABLE: list[tuple[Caller, str, Privacy, set[str]]] = [
    (caller("user", "ada"), "ada", "sensitive", OWN | {"definitions"}),
    (caller("user", "ada"), "bob", "public", {"definitions"}),
    (caller("service"), "ada", "sensitive", SERVICES | {"definitions"}),
    (caller("support"), "ada", "public", {"definitions"}),
    (caller("support", purpose="ticket 7"), "ada", "sensitive", {"read", "see", "definitions"}),
    (caller("analyst"), "ada", "internal", {"read", "see", "list", "definitions"}),
    (caller("analyst"), "ada", "public", {"read", "see", "list", "definitions"}),
    (caller("analyst", purpose="ticket 7"), "ada", "personal", {"see", "list", "definitions"}),
    (caller("admin"), "ada", "sensitive", set(ACTIONS)),
]


@pytest.mark.parametrize(("who", "user", "privacy", "may"), TABLE)
def test_what_ships_lets_each_role_do_what_it_is_for(who: Caller, user: str, privacy: Privacy, may: set[str]) -> None:
    policies = ships()
    granted = {
        action
        for action in ACTIONS
        if policies.decide(
            who,
            action,
            None if action in ON_SYSTEM else user,
            "notes" if action in ON_DOCUMENTS else None,
            privacy if action in ON_DOCUMENTS else None,
        ).allowed
    }
    assert granted == may


def test_nobody_is_another_role_of_the_same_name() -> None:
    assert not allowed(ships(), caller("support", "ada"), "read", "ada", "notes")
    assert not allowed(ships(), caller("analyst", "ada"), "read", "ada", "notes")


SCOPES: list[tuple[str, set[tuple[str, str | None]]]] = [
    (
        "notes:read",
        {
            ("read", "notes"), ("unmask", "notes"), ("read", INBOX), ("unmask", INBOX), ("see", None),
            ("definitions", None),
        },
    ),
    (
        "notes:write",
        {
            ("read", "notes"), ("unmask", "notes"), ("write", "notes"), ("see", None), ("create", None),
            ("read", INBOX), ("unmask", INBOX), ("write", INBOX), ("definitions", None),
        },
    ),
    ("roost:erase", {("erase", None), ("definitions", None)}),
    ("openid", {("definitions", None)}),
    (
        "roost:read",
        {
            ("read", "roost"), ("unmask", "roost"), ("read", INBOX), ("unmask", INBOX), ("see", None),
            ("definitions", None),
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("scopes", "reaches"), SCOPES)
def test_a_scope_reaches_what_it_names(scopes: str, reaches: set[tuple[str, str | None]]) -> None:
    places: list[tuple[Action, str | None]] = [
        (action, name)
        for action in ACTIONS
        for name in (("notes", "other", "roost", INBOX) if action in ON_DOCUMENTS else (None,))
    ]
    reached = {place for place in places if in_scope(frozenset(scopes.split()), *place)}
    assert reached == reaches


def test_documents_stands_for_all_collections_and_no_scope_for_no_limit() -> None:
    for name in ("notes", INBOX):
        assert in_scope(frozenset({"documents:write"}), "write", name)
        assert not in_scope(frozenset({"documents:read"}), "write", name)
    assert all(in_scope(frozenset(), action, "notes") for action in ACTIONS)


# Mistakes

MISTAKES = [
    ("permit(principal,\n action resource);", 1, "unexpected token `resource`"),
    ("\n// a word first\n\npermit(principal, action, resource)\nwhen { principal.age > 3 };", 4, "attribute `age`"),
    ('permit(principal, action, resource);\npermit(principal, action == Action::"raed", resource);', 2, "raed"),
    ('forbid(principal, action, resource) when { context.purpose == "x" };', 1, "purpose"),  # may not be there
    (
        'permit(principal, action == Action::"read", resource) when { resource.privacy == Privacy::"secret" };',
        1,
        "ecret",
    ),
    ('permit(principal, action, resource == Documents::"ada/notes");', 1, "no names of their own"),
    ('permit(principal == User::"a b", action, resource);', 1, "no User can be named 'a b'"),
    ("permit(principal == ?principal, action, resource);", 1, "template"),
    ('@id("a")\npermit(principal, action, resource);\n@id("a")\npermit(principal, action, resource);', 3, "another"),
    ('@id("a b")\npermit(principal, action, resource);', 1, "an @id is"),
    ("permit(principal, action, resource)", 1, ""),
    ("permit(principal, action, resource); what?", 1, ""),
]


@pytest.mark.parametrize(("text", "line", "reason"), MISTAKES)
def test_a_mistake_is_found_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(PolicyFaults) as faults:
        check.read("mine", text)
    assert faults.value.faults[0].line == line
    assert reason in str(faults.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(PolicyFaults) as faults:
        check.read("mine", "permit(a);\n\npermit(b);")
    assert [fault.line for fault in faults.value.faults] == [1, 3]


def test_a_semicolon_in_a_text_or_a_comment_ends_nothing() -> None:
    (policy,) = check.read(
        "mine",
        'permit(principal, action, resource) // no; end\n when { context has purpose && context.purpose == ";" };',
    )
    assert policy.id == "mine/1"


def test_a_directory_is_read_by_name_and_its_mistakes_tell_the_file(tmp_path: Path) -> None:
    (tmp_path / "night.cedar").write_text("forbid(principal is Support, action, resource) when { context.hour < 6 };")
    (tmp_path / "README.md").write_text("no policy")
    own = from_directory(tmp_path)
    assert [policy.id for policy in own] == [f"{tmp_path.name}/night/1"]
    assert not Policies(HOME, Clock(), own).decide(caller("support", purpose="x"), "see", "ada", None, None).errors
    (tmp_path / "night.cedar").write_text("forbid")
    with pytest.raises(PolicyFaults, match="night"):
        from_directory(tmp_path)
    with pytest.raises(PolicyFaults):
        from_directory(tmp_path / "missing")


# An operator's own

AT_NIGHT = """
@id("no-support-at-night")
@detail("Support is closed until six.")
forbid(principal is Support, action, resource) when { context.hour < 6 };
"""


def test_time_is_part_of_what_is_remembered() -> None:
    clock = Clock()
    policies = stored(ships(clock), night=AT_NIGHT)
    ann = caller("support", "ann", purpose="ticket 7")
    assert allowed(policies, ann, "read", "ada", "notes")
    clock.now -= timedelta(hours=2)
    assert not allowed(policies, ann, "read", "ada", "notes")
    assert policies.decide(ann, "read", "ada", "notes", "personal").because == ("night/no-support-at-night",)
    clock.now += timedelta(hours=2)
    assert allowed(policies, ann, "read", "ada", "notes")


def test_other_policies_are_in_force_at_once_and_told_of() -> None:
    told: list[bool] = []
    policies = Policies(HOME, Clock(), changed=lambda: told.append(True))
    bob = caller("user", "bob")
    assert not allowed(policies, bob, "read", "ada", "lists")
    text = 'permit(principal == User::"bob", action == Action::"read", resource in User::"ada");'
    stored(policies, shared=text)
    assert allowed(policies, bob, "read", "ada", "lists")
    assert not allowed(policies, bob, "read", "eve", "lists")
    assert not allowed(policies, caller("user", "eve"), "read", "ada", "lists")
    policies.learn({"shared": None}, anew=False)
    assert not allowed(policies, bob, "read", "ada", "lists")
    stored(policies, shared=text).learn({}, anew=True)
    assert not allowed(policies, bob, "read", "ada", "lists")
    assert len(told) == 4


@pytest.mark.parametrize("value", [b"nonsense", b'{"text":"forbid(principal"}'])
def test_what_cannot_be_read_lets_admins_alone_in(value: bytes) -> None:
    policies = ships()
    policies.learn({"odd": value}, anew=False)
    assert not allowed(policies, caller("user", "ada"), "read", "ada", "notes")
    assert allowed(policies, caller("admin"), "policies")
    policies.learn({"odd": None}, anew=False)
    assert allowed(policies, caller("user", "ada"), "read", "ada", "notes")


def test_a_policy_that_cannot_be_evaluated_refuses() -> None:
    overflows = "permit(principal, action, resource) when { context.hour + 9223372036854775807 > 0 };"
    assert not allowed(stored(ships(), odd=overflows), caller("admin"), "policies")


def test_a_trial_changes_nothing() -> None:
    policies = ships()
    trial = policies.trial("closed", "forbid(principal, action, resource);")
    assert not allowed(trial, caller("admin"), "policies")
    assert allowed(policies, caller("admin"), "policies")
    with pytest.raises(PolicyFaults):
        policies.trial("closed", "forbid")
    with pytest.raises(PolicyFaults):
        policies.trial("roost", "")


# In words

WORDS: list[tuple[Caller, Action, str | None, str | None, str]] = [
    (caller("user", "ada"), "read", "bob", "notes", "its own user only"),
    (caller("support"), "read", "ada", "notes", "Roost-Purpose"),
    (caller("support"), "see", "ada", None, "Roost-Purpose"),
    (caller("support", purpose="x"), "write", "ada", "notes", "This is for services and admins."),
    (caller("analyst"), "read", "ada", "notes", "This is for services and admins."),
    (caller("service", scopes="notes:read"), "write", "ada", "notes", "`notes:write` or `documents:write`"),
    (caller("service", scopes="notes:read"), "erase", "ada", None, "`roost:erase`"),
    (caller("service"), "define", None, None, "This is for admins."),
    (caller("user", "ada"), "list", None, None, "This is for services, analysts and admins."),
]


@pytest.mark.parametrize(("who", "action", "user", "collection", "told"), WORDS)
def test_who_is_refused_is_told_what_is_missing(
    who: Caller, action: Action, user: str | None, collection: str | None, told: str
) -> None:
    privacy: Privacy | None = "personal" if collection else None
    assert told in words.refusal(ships(), who, action, user, collection, privacy)


def test_an_operator_says_why_in_words_of_their_own() -> None:
    clock = Clock()
    clock.now = START.replace(hour=3)
    who = caller("support", purpose="x")
    assert words.refusal(stored(ships(clock), night=AT_NIGHT), who, "see", "ada", None, None) == (
        "Support is closed until six."
    )


# What is remembered


class Everything(Container[str]):
    def __contains__(self, _: object) -> bool:
        return True


class Exact(Compiled):
    """Asks with everything that there is."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._named = Everything()  # type: ignore[assignment]
        for name in (
            "_collection",
            "_privacy",
            "_purpose",
            "_address",
            "_device",
            "_hour",
            "_weekday",
            "_now",
            "timed",
        ):
            assert name in vars(self)
            setattr(self, name, True)


NAMES = st.sampled_from(["ada", "bob", "eve"])
TYPES = st.sampled_from(["User", "Service", "Support"])
COLLECTIONS = st.sampled_from(["notes", "wishlist"])
PRIVACIES = st.sampled_from(["public", "personal"])
PURPOSES = st.sampled_from([None, "ticket 7", "audit"])
ADDRESSES = st.sampled_from(["", "10.0.0.7", "192.0.2.1", "2001:db8::1", "/run/socket"])

GENERAL = st.one_of(
    st.builds("principal == {}::{}".format, TYPES, NAMES.map(json.dumps)),
    st.builds("[{}::{}].contains(principal)".format, TYPES, NAMES.map(json.dumps)),
    st.builds("principal is {}".format, TYPES),
    st.builds("resource in User::{}".format, NAMES.map(json.dumps)),
    st.just("resource in principal"),
    st.sampled_from(["context.hour < 7", "context.weekday > 5", 'context.now > datetime("2026-11-22T06:45:00Z")']),
    st.sampled_from(["context has purpose", 'context has purpose && context.purpose like "ticket *"']),
    st.just("context has device"),
    st.just('context has address && context.address.isInRange(ip("10.0.0.0/8"))'),
    st.just("context.in_scope"),
)
ON_READ = st.one_of(
    GENERAL,
    st.builds("resource.collection == {}".format, COLLECTIONS.map(json.dumps)),
    st.builds("resource.collection like {}".format, st.sampled_from(['"n*"', '"wish*"'])),
    st.builds("resource.privacy == Privacy::{}".format, PRIVACIES.map(json.dumps)),
    st.sampled_from(['resource.home == "eu"', 'resource.home == "us"']),
)


@st.composite
def policy_texts(draw: st.DrawFn) -> str:
    on_documents = draw(st.booleans())
    action = draw(st.sampled_from(["read"] if on_documents else ["see"]))
    conditions = draw(st.lists(ON_READ if on_documents else GENERAL, min_size=1, max_size=3))
    joined = draw(st.sampled_from([" && ", " || "])).join(f"({each})" for each in conditions)
    who = draw(
        st.sampled_from(["principal", "principal is User", 'principal == User::"bob"', 'principal == Support::"ada"'])
    )
    what = draw(st.sampled_from(["resource", 'resource in User::"eve"']))
    return (
        f"{draw(st.sampled_from(['permit', 'forbid']))}({who}, action == Action::{json.dumps(action)}, {what}) "
        f"{draw(st.sampled_from(['when', 'unless']))} {{ {joined} }};"
    )


CALLERS = st.builds(
    lambda kind, name, scopes, address, purpose, device: Caller(
        Principal(kind, name, scopes=frozenset(scopes)), Origin(address, purpose, device=device)
    ),
    st.sampled_from(["user", "service", "support", "analyst", "admin"]),
    NAMES,
    st.sampled_from([[], ["notes:read"], ["documents:write"]]),
    ADDRESSES,
    PURPOSES,
    st.sampled_from([None, "phone"]),
)
PLACES = st.one_of(
    st.tuples(st.just("read"), NAMES, COLLECTIONS, PRIVACIES),
    st.tuples(st.just("see"), NAMES, st.none(), st.none()),
    st.tuples(st.just("list"), st.none(), st.none(), st.none()),
)
REQUESTS = st.lists(st.tuples(CALLERS, PLACES, st.sampled_from([0, 20, 60, 24 * 60, 30 * 60])), min_size=2, max_size=30)


@settings(max_examples=150)
@given(st.lists(policy_texts(), max_size=4), REQUESTS)
def test_a_remembered_decision_is_the_one_that_would_be_made(
    texts: list[str], requests: list[tuple[Caller, tuple[Any, ...], int]]
) -> None:
    clock = Clock()
    policies = stored(ships(clock), random="\n".join(texts))
    exact = Exact(policies.policies.values(), HOME)
    for who, (action, user, collection, privacy), minutes in requests:
        clock.now = START + timedelta(minutes=minutes)
        question = exact.question(who, action, user, collection, privacy, clock.now.timestamp())
        assert policies.decide(who, action, user, collection, privacy) == exact.ask(question)


ANN = Principal("support", "ann")
DIFFERENCES: list[tuple[str, Caller, Caller, int]] = [
    ("context has purpose", Caller(ANN), Caller(ANN, Origin(purpose="x")), 0),
    (
        'context has purpose && context.purpose == "x"',
        Caller(ANN, Origin(purpose="x")),
        Caller(ANN, Origin(purpose="y")),
        0,
    ),
    ("context has device", Caller(ANN), Caller(ANN, Origin(device="phone")), 0),
    ('context has address && context.address == ip("::1")', Caller(ANN, Origin("::1")), Caller(ANN, Origin("::2")), 0),
    ('principal == Support::"ann"', Caller(ANN), Caller(Principal("support", "bob")), 0),
    ('principal == Service::"ann"', Caller(ANN), Caller(Principal("service", "ann")), 0),
    ("resource in principal", Caller(Principal("user", "ada")), Caller(Principal("user", "bob")), 0),
    ("context.in_scope", Caller(ANN), Caller(Principal("support", "ann", scopes=frozenset({"x:read"}))), 0),
    ("context.hour == 6", Caller(ANN), Caller(ANN), 60),
    ("context.weekday == 7", Caller(ANN), Caller(ANN), 24 * 60),
    ('context.now == datetime("2026-11-22T06:30:00Z")', Caller(ANN), Caller(ANN), 1),
]


@pytest.mark.parametrize(("condition", "one", "other", "minutes"), DIFFERENCES)
def test_requests_that_a_policy_tells_apart_are_remembered_apart(
    condition: str, one: Caller, other: Caller, minutes: int
) -> None:
    clock = Clock()
    policies = stored(ships(clock), mine=f"permit(principal, action, resource) when {{ {condition} }};")
    first = policies.decide(one, "read", "ada", "notes", "personal")
    clock.now += timedelta(minutes=minutes)
    second = policies.decide(other, "read", "ada", "notes", "personal")
    assert ("mine/1" in first.because) != ("mine/1" in second.because)


@pytest.mark.parametrize(
    ("condition", "other"),
    [
        ('resource.collection == "notes"', ("ada", "lists", "personal")),
        ('resource.privacy == Privacy::"personal"', ("ada", "notes", "public")),
        ('resource in User::"ada"', ("bob", "notes", "personal")),
    ],
)
def test_documents_that_a_policy_tells_apart_are_remembered_apart(
    condition: str, other: tuple[str, str, Privacy]
) -> None:
    policies = stored(ships(), mine=f'permit(principal, action == Action::"read", resource) when {{ {condition} }};')
    assert "mine/1" in policies.decide(Caller(ANN), "read", "ada", "notes", "personal").because
    assert "mine/1" not in policies.decide(Caller(ANN), "read", *other).because


def test_a_policy_that_takes_the_circumstances_as_a_whole_sees_all_of_them() -> None:
    text = "permit(principal, action, resource) when { (if principal is User then context else context) has device };"
    policies = stored(ships(), mine=text)
    one, other = Caller(ANN), Caller(ANN, Origin(device="phone"))
    assert not allowed(policies, one, "read", "ada", "notes")
    assert allowed(policies, other, "read", "ada", "notes")
    assert not allowed(policies, one, "read", "ada", "notes")


@pytest.mark.parametrize(
    "inner",
    [
        "(" * 5_000 + "true" + ")" * 5_000,
        "!(" * 5_000 + "true" + ")" * 5_000,
        "[" * 5_000 + "1" + "]" * 5_000 + " == [1]",
        '"\n" == ")" // )\r && ' + "(" * 5_000 + "true" + ")" * 5_000,
        " && ".join(["true"] * 5_000),
        "if true then true else " * 2_000 + "true",
        "context" + ".purpose" * 2_000 + ' == "x"',
    ],
)
def test_what_is_too_deep_is_refused_before_it_ends_the_process(inner: str) -> None:
    with pytest.raises(PolicyFaults):
        check.read("deep", f"permit(principal, action, resource) when {{ {inner} }};")


def test_brackets_in_texts_and_comments_are_none() -> None:
    condition = f'"{"(" * 99}" != "x" // {"[" * 99}\n && {"(" * 40}true{")" * 40}'
    assert len(check.read("flat", f"permit(principal, action, resource) when {{ {condition} }};")) == 1

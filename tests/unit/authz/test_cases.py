"""Trying policies out: cases are read strictly, decided as requests are, and explained; the guide's own come out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from roost.authz.policy import cases, check
from roost.authz.policy.model import is_scope
from roost.authz.policy.policies import Policies, encode

HOME = "eu"


def ships() -> Policies:
    return Policies(HOME, lambda: datetime(2026, 11, 22, 6, 30, tzinfo=UTC))


GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "policies.md"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_guide_has_no_mistakes_and_its_cases_come_out() -> None:
    (cedar,), (toml,) = snippets("cedar"), snippets("toml")
    own = check.read("night", cedar)
    found = cases.read(toml)
    for case in found.case:
        policies = Policies(HOME, partial(cases.clock_of, case), own)
        assert cases.wrong(case, cases.ask(policies, case)) is None
    case = found.case[0]
    policies = Policies(HOME, partial(cases.clock_of, case), own)
    told = "\n".join(cases.explain(policies, case, cases.ask(policies, case)))
    (console,) = [snippet for snippet in snippets("console") if "policy why" in snippet]
    assert told == console.partition("\n")[2].rstrip()


@pytest.mark.parametrize("scopes", re.findall(r"`(roost:[a-z]+)`", GUIDE.read_text()))
def test_the_scopes_that_the_guide_names_exist(scopes: str) -> None:
    assert is_scope(scopes)


BAD_CASES = [
    ({"principal": "nobody", "action": "read", "resource": "ada/notes"}, "role"),
    ({"principal": "user:a b", "action": "read", "resource": "ada/notes"}, "A user is"),
    ({"principal": "user:ada", "action": "read", "resource": "ada"}, "<user>/<collection>"),
    ({"principal": "user:ada", "action": "see", "resource": "ada/notes"}, "whole user"),
    ({"principal": "user:ada", "action": "see", "resource": "a b"}, "is about <user>."),
    ({"principal": "admin", "action": "list", "resource": "ada"}, "about no user"),
]


@pytest.mark.parametrize(("told", "wrong"), BAD_CASES)
def test_a_case_that_makes_no_sense_is_refused(told: dict[str, Any], wrong: str) -> None:
    with pytest.raises(cases.BadCase, match=re.escape(wrong)):
        cases.ask(ships(), cases.Case(**told))


def test_a_file_of_cases_that_is_none_is_refused() -> None:
    for text in ("", "[[case]]", '[[case]]\nprincipal = "admin"\naction = "fly"', "= what"):
        with pytest.raises(cases.BadCase):
            cases.read(text)


def test_to_write_it_takes_leave_to_read() -> None:
    policies = ships()
    text = 'permit(principal is Analyst, action == Action::"write", resource);'
    policies.learn({"odd": encode({"text": text})}, anew=False)
    answer = cases.ask(policies, cases.Case(principal="analyst:bo", action="write", resource="ada/notes"))
    assert not answer.allowed
    assert [action for action, _ in answer.steps] == ["write", "read"]

"""Settings go through the environment of worker processes and come out the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from roost.core.issuers import Issuer
from roost.core.limits import Limits
from roost.settings import Settings

ODD = Settings(
    data=Path("/tmp/some where"),
    engine="postgresql://a@b,c/d?target_session_attrs=primary",
    port=1,
    policies={"payments": "cas"},
    tail_interval_s=0.25,
    issuers={
        "https://id.example": Issuer(audience=("a", "b"), kind=None, roles=("realm", "roles"), kinds={"x": "support"}),
        "http://127.0.0.1:1/realm": Issuer(audience="a", prefix="corp:", scopes={"read": ("documents:read",)}),
    },
    limits=Limits(depth_max=3),
)


@pytest.mark.parametrize("settings", [Settings(), ODD])
def test_the_environment_carries_every_setting(settings: Settings) -> None:
    assert Settings.from_env(settings.to_env()) == settings


def test_options_win_over_the_environment_unless_absent() -> None:
    settings = Settings.from_env({"ROOST_PORT": "1", "ROOST_HOST": "::1"}, port=2, host=None)
    assert (settings.port, settings.host) == (2, "::1")


def test_a_wrong_setting_is_refused_and_named() -> None:
    with pytest.raises(msgspec.ValidationError, match="port"):
        Settings.from_env({"ROOST_PORT": "eighty"})


def test_a_variable_that_is_misspelt_is_told_apart_from_one_that_is_not_roosts() -> None:
    settings = dict.fromkeys(Settings(tls_cert=Path("a"), tls_key=Path("b")).to_env(), "")
    others = dict.fromkeys(["ROOST_URL", "ROOST_TOKEN", "ROOST_SERVICE_HOST", "ROOST_PORT_8080_TCP", "KEYRNG"], "")
    assert not Settings.misspelt(settings | others)
    wrong = {"ROOST_KEYRNG": "none", "ROOST_TLS_CLIENT": "services", "ROOST_CORS_ORIGIN": ""}
    meant = {"ROOST_KEYRNG": "ROOST_KEYRING", "ROOST_CORS_ORIGIN": "ROOST_CORS_ORIGINS"}
    found = Settings.misspelt(settings | wrong)
    assert {name: found[name] for name in meant} == meant
    assert found.keys() == wrong.keys()


def test_a_collection_has_its_own_policy_or_the_default() -> None:
    settings = Settings(policies={"payments": "cas"})
    assert settings.policy_of("payments") == "cas"
    assert settings.policy_of("preferences") == "lww"


@pytest.mark.parametrize(
    "url", ["http://id.example", "id.example", "https://", "https://a@id.example", "https://id.example?a", "ftp://a"]
)
def test_an_issuer_is_spoken_to_over_tls_or_on_this_machine(url: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="issuers"):
        Settings.from_env({"ROOST_ISSUERS": json.dumps({url: {"audience": "a"}})})


def test_names_that_an_issuer_gives_are_taken() -> None:
    assert not Settings().named_elsewhere("ada")
    settings = Settings(issuers={"https://id.example": Issuer(audience="a", prefix="corp:")})
    assert settings.named_elsewhere("corp:ada")
    assert not settings.named_elsewhere("ada")
    assert Settings(issuers={"https://id.example": Issuer(audience="a")}).named_elsewhere("ada")


def test_the_guides_issuers_are_as_settings_take_them() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "identity.md").read_text()
    examples = re.findall(r"ROOST_ISSUERS='(.*?)'", guide, re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        assert Settings.from_env({"ROOST_ISSUERS": example}).issuers
    table = guide.partition("### Settings of an issuer")[2].partition("\n**")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert named == {field.name for field in msgspec.structs.fields(Issuer)}

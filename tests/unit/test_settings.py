"""Settings go through the environment of worker processes and come out the same."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from roost.core.limits import Limits
from roost.settings import Settings

ODD = Settings(
    data=Path("/tmp/some where"),
    engine="postgresql://a@b,c/d?target_session_attrs=primary",
    port=1,
    policies={"payments": "cas"},
    tail_interval_s=0.25,
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


def test_a_collection_has_its_own_policy_or_the_default() -> None:
    settings = Settings(policies={"payments": "cas"})
    assert settings.policy_of("payments") == "cas"
    assert settings.policy_of("preferences") == "lww"

"""Tokens of a real OpenID provider at a real server: logins in a browser, key rotation, forgeries, and its absence."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from joserfc.jwk import Key, RSAKey

from tests.support.chromium import chromium, serve
from tests.support.provider import AUDIENCE, CLIENT, Provider
from tests.support.server import Server, until
from tests.support.tokens import encoded, made, signed

# A native application's port may be any.
REDIRECT = "http://127.0.0.1/page/index.html"

# What an application does: send the browser to the provider, and turn the code that it comes back with into tokens.
BEGIN = """async ({issuer, client, redirect, audience, nonce}) => {
  const encode = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
  const verifier = encode(crypto.getRandomValues(new Uint8Array(32)));
  const challenge = encode(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(verifier)));
  const state = encode(crypto.getRandomValues(new Uint8Array(16)));
  sessionStorage.setItem('login', JSON.stringify({verifier, state}));
  location = `${issuer}/auth?` + new URLSearchParams({response_type: 'code', client_id: client, redirect_uri: redirect,
    scope: 'openid documents:read', resource: audience, state, nonce, code_challenge: challenge,
    code_challenge_method: 'S256'});
}"""
FINISH = """async ({issuer, client, redirect, audience}) => {
  const {verifier, state} = JSON.parse(sessionStorage.getItem('login'));
  const given = new URLSearchParams(location.search);
  if (given.get('state') !== state || given.get('iss') !== issuer) throw new Error('not the answer to this login');
  const body = new URLSearchParams({grant_type: 'authorization_code', code: given.get('code'), client_id: client,
    redirect_uri: redirect, resource: audience, code_verifier: verifier});
  return await (await fetch(`${issuer}/token`, {method: 'POST', body})).json();
}"""
USE = """async ({user, token}) => {
  const at = `/v1/users/${encodeURIComponent(user)}/docs/preferences/ui`;
  const headers = {authorization: `Bearer ${token}`, 'content-type': 'application/json'};
  await fetch(at, {method: 'PUT', headers, body: '{"theme": "dark"}'});
  window.roost = await client.open({url: location.origin, user, token});
  await roost.synced();
  const synced = roost.collection('preferences').get('ui');
  const other = await fetch('/v1/users/bob/docs/preferences/ui', {headers});
  return {value: await (await fetch(at, {headers})).json(), synced, other: other.status};
}"""


class Setting(NamedTuple):
    """A server and two providers: one that it asks for keys that are missing, and one that it asks all the time."""

    server: Server
    provider: Provider
    watched: Provider
    one: Key
    """The key of `provider`."""
    other: Key
    """The key of `watched`, by the same name."""

    def ask(self, token: str) -> httpx.Response:
        """What any bearer of a good token but a plain user may read."""
        return httpx.get(f"{self.server.url}/v1/users", headers={"authorization": f"Bearer {token}"}, timeout=30)

    def refused(self, token: str) -> str:
        answer = self.ask(token)
        assert answer.status_code == 401, answer.text
        assert answer.json()["code"] == "unauthenticated"
        detail = answer.json()["detail"]
        assert isinstance(detail, str)
        return detail

    def claims(self, **changed: Any) -> dict[str, Any]:
        """The claims of an admin at `provider`."""
        now = int(time.time())
        usual = {"iss": self.provider.url, "sub": "root", "aud": AUDIENCE, "iat": now, "exp": now + 60}
        return {**usual, "roles": ["root"], **changed}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    one, other = made("RS256", "one"), made("RS256", "one")
    with Provider(REDIRECT, one) as provider, Provider(REDIRECT, other) as watched:
        issuer: dict[str, Any] = {
            "audience": AUDIENCE,
            "prefix": "corp:",
            "kinds": {"root": "admin", "billing": "service", "fleeting": "service"},
            "algorithms": ["RS256", "ES256"],
            "leeway_s": 0,
        }
        issuers = {provider.url: issuer, watched.url: {**issuer, "prefix": "watched:", "refresh_s": 1}}
        data = tmp_path_factory.mktemp("provider") / "data"
        with Server(data, engine="memory:", signup="open", issuers=json.dumps(issuers)) as server:
            yield Setting(server, provider, watched, one, other)


def test_a_login_in_a_browser_opens_the_users_state_and_no_other(setting: Setting) -> None:
    redirect = f"{setting.server.url}/page/index.html"
    given = {"issuer": setting.provider.url, "client": CLIENT, "redirect": redirect, "audience": AUDIENCE}
    with chromium() as browser:
        page = browser.new_page()
        page.route("**/page/**", serve)
        page.goto(redirect)
        page.evaluate(BEGIN, {**given, "nonce": "n-0S6_WzA2Mj"})
        page.fill("input[name=login]", "ada")
        page.fill("input[name=password]", "any")
        page.click("button[type=submit]")
        page.wait_for_selector("text=Authorize")
        page.click("button[type=submit]")
        page.wait_for_url(f"{redirect}?code=*")
        page.reload()  # what a redirect leads to, a route is not asked for
        page.wait_for_function("window.client !== undefined")
        tokens = page.evaluate(FINISH, given)
        used = page.evaluate(USE, {"user": "corp:ada", "token": tokens["access_token"]})
    assert used == {"value": {"theme": "dark"}, "synced": {"theme": "dark"}, "other": 403}
    assert "ID token" in setting.refused(tokens["id_token"])
    assert setting.ask(tokens["access_token"]).status_code == 403, "a user is no admin"


def test_roles_of_the_provider_count_here(setting: Setting) -> None:
    assert setting.ask(setting.provider.token()).status_code == 200


def test_keys_may_rotate_and_are_found_when_they_are_missing(setting: Setting) -> None:
    old = setting.provider.token()
    two = made("ES256", "two")
    setting.provider.rotate(two, setting.one)
    new = setting.provider.token()
    until(lambda: setting.ask(new).status_code == 200, what="the new key is known")
    assert setting.ask(old).status_code == 200
    setting.provider.rotate(setting.one, two)


def test_a_withdrawn_key_is_good_no_longer_nor_is_a_token_that_was_known(setting: Setting) -> None:
    known = setting.watched.token()
    assert setting.ask(known).status_code == 200
    three = made("RS256", "three")
    setting.watched.rotate(three, setting.other)
    until(lambda: setting.ask(setting.watched.token()).status_code == 200, what="the new key is known")
    assert setting.ask(known).status_code == 200
    setting.watched.rotate(three)
    until(lambda: setting.ask(known).status_code == 401, what="the old key is forgotten")
    assert setting.ask(setting.watched.token()).status_code == 200
    setting.watched.rotate(setting.other)
    until(lambda: setting.ask(setting.watched.token()).status_code == 200, what="the first key is back")


def test_while_the_provider_is_away_known_keys_are_good_and_others_wait(setting: Setting) -> None:
    setting.provider.rotate(setting.one)
    by_known_key = setting.provider.token()
    four = made("RS256", "four")
    setting.provider.rotate(four, setting.one)
    by_new_key = setting.provider.token()
    setting.provider.kill()
    until(lambda: setting.ask(by_new_key).status_code == 503, what="it was asked, and was not there")
    answer = setting.ask(by_new_key)
    assert answer.json()["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0
    assert "issuer" in answer.json()["detail"]
    assert setting.ask(by_known_key).status_code == 200
    assert setting.ask(setting.server.admin()).status_code == 200
    setting.provider.start()
    until(lambda: setting.ask(by_new_key).status_code == 200, what="it is there again")


def test_a_token_of_another_issuer_or_for_another_audience_is_refused(setting: Setting) -> None:
    with Provider(REDIRECT, setting.one) as stranger:
        assert "issuer" in setting.refused(stranger.token())
    assert "audience" in setting.refused(setting.provider.token(audience="https://other.example/"))


def test_a_token_expires(setting: Setting) -> None:
    fleeting = setting.provider.token("fleeting")
    until(lambda: setting.ask(fleeting).status_code == 401)
    assert "expired" in setting.refused(fleeting)


def test_a_token_can_be_revoked_here(setting: Setting) -> None:
    token, other = setting.watched.token(), setting.watched.token()
    assert setting.ask(token).status_code == 200
    assert httpx.post(f"{setting.server.url}/v1/auth/revoke", data={"token": token}, timeout=30).status_code == 200
    until(lambda: setting.ask(token).status_code == 401)
    assert setting.ask(other).status_code == 200


def test_nobody_signs_up_under_a_name_that_the_provider_gives(setting: Setting) -> None:
    def sign_up(user: str) -> int:
        body = {"user": user, "password": "correct horse battery"}
        return httpx.post(f"{setting.server.url}/v1/auth/signup", json=body, timeout=30).status_code

    assert sign_up("corp:eve") == sign_up("watched:eve") == 403
    assert sign_up("eve") < 300


def test_forged_tokens_are_refused(setting: Setting) -> None:
    assert setting.ask(signed(setting.one, setting.claims(), alg="RS256", kid="one")).status_code == 200
    jwk = setting.one.as_dict(private=False)
    assert isinstance(setting.one, RSAKey)
    for secret in (setting.one.as_pem(private=False), json.dumps(jwk).encode(), str(jwk["n"]).encode()):
        setting.refused(signed(secret, setting.claims(), alg="HS256", kid="one"))
    unsigned = f"{encoded({'alg': 'none', 'kid': 'one'})}.{encoded(setting.claims())}."
    setting.refused(unsigned)
    mine = made("RS256", "one")
    brought = {"jwk": mine.as_dict(private=False), "jku": f"{setting.watched.url}/jwks"}
    setting.refused(signed(mine, setting.claims(), alg="RS256", kid="one", **brought))
    # A provider cannot speak for another one, nor for Roost.
    setting.refused(signed(setting.other, setting.claims(), alg="RS256", kid="one", **brought))
    setting.refused(signed(setting.one, setting.claims(iss="roost", kind="admin"), alg="RS256", kid="one"))
    for kid in ("../../../signing_key.json", f"{setting.watched.url}/jwks", "' OR 1=1 --", "\x00", "", "é"):
        setting.refused(signed(mine, setting.claims(), alg="RS256", kid=kid))
    setting.refused(signed(setting.one, setting.claims(nonce="n"), alg="RS256", kid="one"))
    setting.refused(signed(setting.one, setting.claims(), alg="RS256", kid="one", crit=["exp"], exp=1))

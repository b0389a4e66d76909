"""Sign-in at a provider: a real browser's way there and back, and every answer that does not hold."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from studio.errors import BackendError, UserError
from studio.settings import Settings
from studio.web import accounts
from studio.web.oidc import PREFIX, Provider, name_of
from tests.studio.house import furnish, open_house
from tests.studio.live import listening, served
from tests.studio.provider import CLIENT, SECRET
from tests.studio.provider import Provider as Served

BACK = "http://studio.example/login/back"


@pytest.fixture(scope="module")
def there() -> Iterator[Served]:
    provider = Served("")
    with listening(provider.app()) as address:
        provider.address = address
        yield provider


@pytest.fixture(autouse=True)
def whole(there):
    yield
    there.broken, there.claims = "", {"sub": "ann-at-the-provider"}


@pytest.fixture
def here(there) -> Provider:
    return Provider(there.address, CLIENT, SECRET)


def round_trip(provider: Provider) -> str:
    """What a browser does: to the provider and back."""
    begun = provider.begin(BACK)
    answer = httpx.get(begun.address)
    back = httpx.URL(answer.headers["location"])
    return provider.finish(BACK, dict(back.params), begun.facts)


def test_the_same_account_is_the_same_user_and_its_name_tells_nothing(there, here):
    first = round_trip(here)
    assert first == round_trip(here)
    assert first.startswith(PREFIX) and "ann" not in first and len(first) < 60
    assert first == name_of(f"{there.address}/", "ann-at-the-provider"), "as the API knows them"
    there.claims = {"sub": "somebody-else"}
    assert round_trip(here) != first


@pytest.mark.parametrize(
    "rule",
    ["nonce", "audience", "expired", "token issuer", "no subject", "many", "shared secret",
     "another key", "unsigned", "issuer", "plain"],
)  # fmt: skip
def test_a_token_or_provider_that_breaks_a_rule_signs_nobody_in(there, here, rule):
    there.broken = rule
    with pytest.raises(BackendError):
        round_trip(here)


@pytest.mark.parametrize("rule", ["refused", "mixed up"])
def test_a_refusal_and_another_providers_answer_are_said(there, here, rule):
    there.broken = rule
    with pytest.raises(UserError, match="Begin again"):
        round_trip(here)


def test_an_answer_counts_once_and_only_for_the_browser_that_began(there, here):
    begun, another = here.begin(BACK), here.begin(BACK)
    params = dict(httpx.URL(httpx.get(begun.address).headers["location"]).params)
    for facts in (None, another.facts):
        with pytest.raises(UserError, match="not begun here"):
            here.finish(BACK, params, facts)
    with pytest.raises(BackendError):  # the provider sees that the verifier is not ours
        here.finish(BACK, params, {**begun.facts, "verifier": "guessed"})
    with pytest.raises(BackendError):  # and it gives nothing for the same code again
        here.finish(BACK, params, begun.facts)


def test_a_provider_that_changes_its_keys_is_asked_again(there, here, monkeypatch):
    round_trip(here)
    there.rotate()
    monkeypatch.setattr("studio.web.oidc.REFETCH_S", 0.0)
    assert round_trip(here)


def test_only_those_whom_the_host_names_come_in(there):
    def may(*allowed: str) -> bool:
        try:
            return bool(
                round_trip(Provider(there.address, CLIENT, SECRET, "openid", frozenset(allowed)))
            )
        except UserError:
            return False

    assert may("ann-at-the-provider") and may("ann@team.example") and may("@team.example")
    assert not may("bob@team.example") and not may("@example") and not may("@other.example")
    there.claims |= {"email": "ann@boss.example", "email_verified": False}
    assert not may("@boss.example"), "an address that nobody checked may be anybody's"


def test_a_provider_that_is_away_is_named():
    away = Provider("http://127.0.0.1:1", CLIENT)
    with pytest.raises(BackendError, match=r"127\.0\.0\.1:1.*failed"):
        away.begin(BACK)
    with pytest.raises(BackendError, match="https"):
        Provider("http://provider.example", CLIENT).begin(BACK)


def test_a_browser_signs_in_and_has_its_own_things_only(there, tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2)
    changes = {"oidc_issuer": there.address, "oidc_client_id": CLIENT,
               "oidc_client_secret": Settings(oidc_client_secret=SECRET).oidc_client_secret,
               "host": "0.0.0.0"}  # fmt: skip
    with served(parts, **changes) as (_, address):
        ann = httpx.Client(base_url=address, follow_redirects=True, timeout=30)
        assert ann.get("/config").status_code == 401
        page = ann.get("/")
        assert (
            page.url.path == "/login" and "login/oidc" in page.text and "password" not in page.text
        )
        entered = ann.get("/login/oidc")
        assert entered.status_code == 200 and entered.url.path == "/"
        name = ann.get("/config").json()["username"]
        assert name.startswith(PREFIX)
        goods = furnish(parts, name, tmp_path / "trained")
        path = f"/files/avatar/{goods.avatar.id}"
        assert ann.get(path).status_code == 200
        there.claims = {"sub": "bob"}
        bob = httpx.Client(base_url=address, follow_redirects=True, timeout=30)
        bob.get("/login/oidc")
        assert bob.get("/config").json()["username"] != name
        assert bob.get(path).status_code == 404
        stray = bob.get("/login/back", params={"code": "x", "state": "y"})
        assert stray.status_code == 403 and "not begun here" in stray.text
        there.broken = "another key"
        assert (
            httpx.Client(base_url=address, follow_redirects=True).get("/login/oidc").status_code
            == 503
        )
        ann.get("/logout")
        assert ann.get("/config").status_code == 401
    parts.studio.close()
    parts.close()


def test_a_space_with_oauth_needs_no_settings(monkeypatch, tmp_path):
    """A card with `hf_oauth: true` makes the Space set these; its address is where people return."""
    given = {
        "SPACE_ID": "ann/avatars", "SPACE_HOST": "ann-avatars.hf.space", "OAUTH_CLIENT_ID": "id",
        "OAUTH_CLIENT_SECRET": "hush-hush", "OPENID_PROVIDER_URL": "https://huggingface.co",
        "AVATAR_HOME": str(tmp_path),
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    from studio.settings import read_settings

    settings = read_settings()
    visitors = accounts.Visitors(settings)
    assert settings.public and not visitors.guests
    assert visitors.provider is not None and visitors.provider.issuer == "https://huggingface.co"
    assert settings.public_url == "https://ann-avatars.hf.space"
    assert "hush-hush" not in repr(settings)


def test_an_issuer_without_a_client_is_named(tmp_path):
    with pytest.raises(BackendError, match="AVATAR_OIDC_CLIENT_ID"):
        accounts.Visitors(Settings(home=tmp_path, oidc_issuer="https://provider.example"))

"""The API beside the studio: whose request it is, keys that answer once, problems, its own schema."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance as POSITIVE
from starlette.testclient import TestClient

from moderation.verdict import Decision
from studio.pictures.delivery import Delivery
from studio.records import Run, Use, new_id, now
from studio.rest import lambda_handler
from studio.web import accounts
from studio.web import app as web
from tests.studio.house import drawn, furnish, open_house

PASSWORDS = {name: f"{name}'s long sentence" for name in ("ann", "bob", "carl")}
EXAMPLES = 25
HERE = {"host": "127.0.0.1"}


@contextmanager
def opened_app(parts, **changes):
    changed = {"workers": 0, "api_wait_seconds": 0.0, "requests_per_minute": 1e6, **changes}
    app = web.create(parts.settings.model_copy(update=changed))
    with TestClient(app, base_url="http://127.0.0.1"):
        yield app


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    parts = open_house(tmp_path_factory.mktemp("rest"), min_photos=2)
    yield parts
    parts.close()


@pytest.fixture(scope="module")
def goods(house, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for name, password in PASSWORDS.items():
        accounts.add(folder / "accounts", name, password)
    return folder / "accounts", {n: furnish(house, n, folder / n) for n in ("ann", "bob")}


@pytest.fixture(scope="module")
def shared(house, goods):
    with opened_app(house, accounts=str(goods[0])) as app:
        yield app


@pytest.fixture(autouse=True)
def no_cool_down(house):
    house.catalog.remove({Use: [use.id for use in house.catalog.find(Use, kind="blocked-prompt")]})


def client_of(app, name: str = "") -> TestClient:
    client = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
    if name:
        client.cookies.update(_cookies(app, name))
    return client


@cache
def _cookies(app, name: str):
    """One sign-in for all tests of a user: a password takes a while to check, on purpose."""
    client = client_of(app)
    client.post("/login", data={"name": name, "password": PASSWORDS[name]})
    return client.cookies


def finish(parts, run_id: str, action: str = "show") -> Run:
    """What a worker does at the end, with the code that it uses; the picture was judged."""
    run = parts.catalog.get_run(run_id)
    decision = "allow" if action == "show" else "review"
    style = run.request["style_ids"][0]
    picture = drawn(
        run.request["model_id"], style, verdict={"decision": decision, "action": action}
    )
    avatar = Delivery(parts.catalog, parts.storage).avatar(run, f"{style}-0", picture)
    detail = {"avatar_ids": [avatar.id], "refused": [], "seconds": {"text": 0.1, "draw": 2.0}}
    parts.catalog.update_run(run_id, state="done", message="Ready.", detail=detail)
    return parts.catalog.get_run(run_id)


def test_strangers_get_nothing(shared):
    client = client_of(shared)
    for method, path in (
        ("POST", "/v1/avatars"), ("GET", "/v1/avatars/x"), ("GET", "/v1/pictures/x"),
        ("POST", "/classifier"), ("POST", "/classifier/checkToxicity"), ("GET", "/v1/openapi.json"),
    ):  # fmt: skip
        assert client.request(method, path, json={"text": "a cat"}).status_code == 401, path


def test_a_drawing_from_the_wish_to_the_bytes(shared, house):
    client = client_of(shared, "ann")
    begun = client.post("/v1/avatars", json={"prompt": "at the sea", "seed": 5})
    assert begun.status_code == 202 and begun.json()["state"] == "waiting"
    assert begun.headers["location"] == begun.json()["url"]
    assert int(begun.headers["retry-after"]) > 0
    finish(house, begun.json()["id"])
    done = client.get(begun.json()["url"])
    (picture,) = done.json()["pictures"]
    assert (done.status_code, picture["blurred"], picture["warnings"]) == (200, False, [])
    assert done.json()["verdict"]["decision"] == picture["verdict"]["decision"] == "allow"
    owner = house.studio.user("ann").id
    assert picture["key"].startswith(f"users/{owner}/") and picture["name"] in picture["key"]
    assert "draw;dur=2000.0" in done.headers["server-timing"]
    fetched = client.get(picture["url"])
    assert fetched.headers["content-type"] == picture["content_type"] == "image/png"
    assert Image.open(io.BytesIO(fetched.content)).format == "PNG"


def test_a_blurred_picture_says_so_and_comes_inline(shared, house):
    client = client_of(shared, "ann")
    wish = {"inline": True, "seed": 6}
    headers = {"idempotency-key": new_id()}
    run_id = client.post("/v1/avatars", json=wish, headers=headers).json()["id"]
    finish(house, run_id, "blur")
    told = client.post("/v1/avatars", json=wish, headers=headers).json()
    (picture,) = told["pictures"]
    assert picture["blurred"] and told["verdict"]["decision"] == "review"
    assert [warning["code"] for warning in told["warnings"]] == ["picture_blurred"]
    assert base64.b64decode(picture["content"])[:4] == b"\x89PNG"


def test_what_is_somebody_elses_is_not_there(shared, house, goods):
    ann, bob = client_of(shared, "ann"), client_of(shared, "bob")
    run_id = ann.post("/v1/avatars", json={}).json()["id"]
    run = finish(house, run_id)
    name = run.detail["avatar_ids"][0]
    for path in (f"/v1/avatars/{run_id}", f"/v1/pictures/{name}"):
        assert ann.get(path).status_code == 200
        assert bob.get(path).status_code == 404
        assert bob.get(path).json()["detail"] == bob.get(path[:-3] + "abc").json()["detail"]
    model = goods[1]["ann"].model.id
    assert bob.post("/v1/avatars", json={"model": model}).status_code == 404
    training = goods[1]["ann"].training.id
    assert ann.get(f"/v1/avatars/{training}").status_code == 404


def test_one_key_is_one_drawing_for_each_user(shared):
    ann, bob = client_of(shared, "ann"), client_of(shared, "bob")
    headers = {"idempotency-key": "a-key-of-ann"}
    first = ann.post("/v1/avatars", json={"prompt": "one"}, headers=headers)
    again = ann.post("/v1/avatars", json={"prompt": "one"}, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    other = ann.post("/v1/avatars", json={"prompt": "two"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "key-reused")
    assert bob.post("/v1/avatars", json={}, headers=headers).json()["id"] != first.json()["id"]
    assert ann.post("/v1/avatars", json={"prompt": "one"}).json()["id"] != first.json()["id"]


def test_requests_that_come_at_once_under_one_key_begin_one_run(shared, house):
    owner = house.studio.user("ann").id
    before = len(house.catalog.find(Run, user_id=owner))
    headers = {"idempotency-key": "many-at-once"}
    client = client_of(shared, "ann")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(
            lambda _: client.post("/v1/avatars", json={"seed": 3}, headers=headers), range(6)
        ))  # fmt: skip
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(house.catalog.find(Run, user_id=owner)) == before + 1


def test_a_refused_text_stays_refused_and_is_kept_nowhere(shared, house):
    client = client_of(shared, "ann")
    text = "a naked woman on a bed"
    headers = {"idempotency-key": "refused-once"}
    first = client.post("/v1/avatars", json={"prompt": text}, headers=headers)
    again = client.post("/v1/avatars", json={"prompt": text}, headers=headers)
    assert (first.status_code, first.json()["code"]) == (422, "refused")
    assert again.json() == first.json()
    owner = house.studio.user("ann").id
    assert house.catalog.used(owner, "blocked-prompt", now() - timedelta(minutes=5)) == 1
    assert "naked" not in first.text and "rules" not in first.text
    assert "naked" not in str(house.catalog.find(Run, user_id=owner))
    other = client.post("/v1/avatars", json={"prompt": "at the sea"}, headers=headers)
    assert other.json()["code"] == "key-reused"


def test_what_could_not_be_checked_may_be_asked_again_under_its_key(shared, house):
    client = client_of(shared, "ann")
    headers = {"idempotency-key": "bad-luck"}
    run_id = client.post("/v1/avatars", json={}, headers=headers).json()["id"]
    house.catalog.update_run(
        run_id, state="failed", message="Try again.", detail={"code": "unchecked"}
    )
    failed = client.get(f"/v1/avatars/{run_id}")
    assert (failed.status_code, failed.headers["retry-after"]) == (503, "30")
    again = client.post("/v1/avatars", json={}, headers=headers)
    assert again.status_code == 202 and again.json()["id"] != run_id


def test_withheld_pictures_are_told_from_refused_texts(shared, house):
    client = client_of(shared, "ann")
    run_id = client.post("/v1/avatars", json={}).json()["id"]
    refused = [{"style": "starter-ink", "reason": "This picture did not pass our checks."}]
    detail = {"code": "refused", "refused": refused}
    house.catalog.update_run(run_id, state="failed", message="None passed.", detail=detail)
    told = client.get(f"/v1/avatars/{run_id}")
    assert (told.status_code, told.json()["code"]) == (422, "withheld")


def test_toxicity_is_judged_by_policy_and_never_explained(shared):
    client = client_of(shared, "ann")
    fine = client.post("/classifier/checkToxicity", json={"text": "a glass of wine", "weight": 1})
    assert (fine.status_code, fine.json()["toxic"]) == (200, False), "a benign label blocks"
    bad = client.post("/classifier/checkToxicity", json={"text": "a naked woman"}).json()
    assert (bad["toxic"], bad["decision"]) == (True, Decision.BLOCK)
    assert not {"naked", "sexual", "rules", "classifier"} & set(str(bad).lower().split())
    for _ in range(10):
        last = client.post("/classifier/checkToxicity", json={"text": "a naked woman"})
    assert (last.status_code, last.json()["code"]) == (429, "cool-down")
    assert int(last.headers["retry-after"]) > 0


def test_the_classifier_draws_and_names_what_it_stored(shared, house):
    client = client_of(shared, "ann")
    headers = {"idempotency-key": "classified"}
    run_id = client.post("/classifier", json={"text": "a sunny day"}, headers=headers).json()["id"]
    run = finish(house, run_id)
    told = client.post("/classifier", json={"text": "a sunny day"}, headers=headers)
    assert told.status_code == 200 and told.json()["file"] == run.detail["avatar_ids"][0]
    assert told.json()["content_type"] == "image/png"
    assert client.post("/classifier", json={"text": "a naked woman"}).status_code == 422


def test_bad_bodies_are_problems(shared):
    client = client_of(shared, "ann")
    cases = [
        ({"json": {"count": 0}}, 422, "count"), ({"json": {"count": True}}, 422, "count"),
        ({"json": {"owner": "bob"}}, 422, "owner"), ({"json": {"style": "nothing"}}, 404, "style"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 422, ""),
        ({"json": {"prompt": "x" * 70_000}}, 413, "bytes"),
        ({"json": {}, "headers": {"idempotency-key": "x" * 200}}, 422, "Idempotency-Key"),
    ]  # fmt: skip
    for sent, status, word in cases:
        answer = client.post("/v1/avatars", **sent)
        assert answer.status_code == status, (sent, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert word in answer.json()["detail"] and answer.json()["status"] == status


@pytest.mark.parametrize("home", ["beside the studio", "lambda"])
def test_another_method_is_a_problem_that_says_which_is_right(shared, house, home):
    client = client_of(shared, "ann")
    if home == "lambda":
        client = TestClient(lambda_handler.api(house.studio, 0.0))
    for method, path, right in (
        ("GET", "/v1/avatars", "POST"), ("GET", "/classifier", "POST"),
        ("GET", "/classifier/checkToxicity", "POST"), ("POST", "/v1/avatars/x", "GET"),
        ("POST", "/v1/pictures/x", "GET"), ("DELETE", "/v1/pictures/x", "GET"),
    ):  # fmt: skip
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, right), (method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 405


def test_a_fault_of_our_own_in_the_lambda_home_is_a_problem_too(house):
    app = lambda_handler.api(house.studio, 0.0)

    @app.get("/v1/broken")
    def broken() -> None:
        raise RuntimeError("the name of a table")

    answer = TestClient(app, raise_server_exceptions=False).get("/v1/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "unknown")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "table" not in answer.text


def test_without_a_model_there_is_nothing_to_draw(shared):
    answer = client_of(shared, "carl").post("/v1/avatars", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "no-model")


@pytest.fixture(scope="module")
def schema(house, tmp_path_factory):
    """The studio's own description of its API, with everything that stands before it."""
    furnish(house, "local", tmp_path_factory.mktemp("local"))
    with opened_app(house, cooldown_blocks=10**6) as app:
        yield schemathesis.openapi.from_asgi("/v1/openapi.json", app, headers=HERE)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_holds_to_its_own_schema(schema, mode):
    """No 5xx; only documented statuses, types and bodies; bad data refused, good data taken."""
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case):
            answer = case.call(headers={**(case.headers or {}), **HERE})
            seen.add(answer.status_code)
            assert answer.status_code < 500, answer.text
            # No schema can say which texts are refused, and which keys were used before.
            told = answer.json()["code"] if answer.status_code == 422 else ""
            refused = told in ("refused", "key-reused")
            case.validate_response(answer, excluded_checks=[POSITIVE] if refused else [])

        holds()
    wanted = {200, 202, 404} if mode is GenerationMode.POSITIVE else {422}
    assert wanted <= seen, seen

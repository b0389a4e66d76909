"""Whose things are, and what is forgotten first when there are many."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.web import owners
from studio.web.owners import Owners, named_things, parsed


def test_the_first_to_name_a_session_has_it():
    found = Owners()
    assert found.claim("session a", "ann") and found.claim("session a", "ann")
    assert not found.claim("session a", "bob")
    assert found.owns("session a", "ann") and not found.owns("session a", "bob")
    assert not found.owns("session b", "ann")


def test_equal_uploads_belong_to_all_who_sent_them_until_each_forgets():
    found = Owners()
    for who in ("ann", "bob"):
        found.share("upload /tmp/same", who)
    found.share("upload /tmp/hers", "ann")
    assert all(found.owns("upload /tmp/same", who) for who in ("ann", "bob"))
    assert found.forget_uploads("ann") == [Path("/tmp/hers")], "Bob still needs the other"
    assert not found.owns("upload /tmp/same", "ann") and found.owns("upload /tmp/same", "bob")
    assert found.forget_uploads("bob") == [Path("/tmp/same")]


def test_much_of_one_user_makes_nobody_elses_forgotten(monkeypatch):
    monkeypatch.setattr(owners, "MOST_THINGS", 10)
    monkeypatch.setattr(owners, "MOST_USERS", 3)
    found = Owners()
    found.claim("session ann", "ann")
    for number in range(50):
        found.claim(f"session {number}", "bob")
    assert found.owns("session ann", "ann") and found.owns("session 49", "bob")
    assert not found.owns("session 0", "bob")
    for number in range(3):
        found.claim(f"session of {number}", f"guest {number}")
    assert not found.owns("session ann", "ann"), "who was here longest ago is forgotten"
    assert found.owns("session of 2", "guest 2")


def test_a_body_tells_all_that_it_names_however_deep():
    body = {"session_hash": "s", "data": [{"path": "/a", "x": [{"path": "/b"}]}, {"event_id": "e"}]}
    assert set(named_things(body)) == {"session s", "event e", "upload /a", "upload /b"}
    assert list(named_things({"path": 5, "session_hash": None, "event_id": ""})) == []


def test_what_is_nested_too_deeply_is_no_json():
    with pytest.raises(ValueError, match="deep"):
        parsed(b"[" * 500_000)
    deep = parsed(b"[" * 900 + b"]" * 900)
    assert list(named_things(deep)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["path", "session_hash", "event_id", "data", "x"]), inner, max_size=4
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_no_file_of_a_body_goes_unnamed(body):
    """Every string under `path`, wherever it stands, is among what must be owned."""

    def paths(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "path" and isinstance(inner, str) and inner:
                    yield f"upload {inner}"
                yield from paths(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from paths(inner)

    assert set(paths(body)) <= set(named_things(body))

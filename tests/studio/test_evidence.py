"""Records of decisions: kept before anything is shown, or nothing is; gone when their time is over."""

from __future__ import annotations

from datetime import timedelta

import pytest
from PIL import Image
from sqlalchemy import text

from moderation.chain import PromptRequest, build
from moderation.decisions import DecisionRecord, Evidence
from moderation.layers import ModerationConfig
from moderation.policy import Action
from moderation.verdict import Decision, Stage
from studio.catalog import open_catalog
from studio.errors import BackendError
from studio.evidence import Decisions
from studio.keeping.retention import sweep
from studio.records import now
from studio.statistics import moderation_statistics
from tests.studio.house import open_house

PICTURE = Image.new("RGB", (64, 64), "white")


@pytest.fixture
def catalog(tmp_path):
    opened = open_catalog(f"sqlite:///{tmp_path / 'records.sqlite'}")
    yield opened
    opened.close()


def chain(decisions: Decisions):
    return build(ModerationConfig(), Evidence(b"key", decisions.keep))


def test_every_stage_leaves_a_record_each_decision_once(catalog):
    decisions = Decisions(catalog.engine)
    moderation, began = chain(decisions), now()
    pending = moderation.begin_prompt(PromptRequest("a portrait in a garden"))
    assert pending.result() is pending.result()
    assert not moderation.first_look(PromptRequest("a nude woman")).verdict.allowed
    assert moderation.first_look(PromptRequest("a knight")).verdict.allowed, "decides nothing"
    for stage in (Stage.CLASS_PICTURE, Stage.PREVIEW, Stage.PICTURE):
        moderation.pictures([PICTURE] * 2, stage)
    moderation.photo(PICTURE)
    moderation.photo_set([PICTURE] * 3)
    kept = list(decisions.since(began))
    assert [(record.stage, record.decision) for record in kept] == [
        (Stage.PROMPT, Decision.ALLOW),
        (Stage.PROMPT, Decision.BLOCK),
        *[(Stage.CLASS_PICTURE, Decision.ALLOW)] * 2,
        *[(Stage.PREVIEW, Decision.ALLOW)] * 2,
        *[(Stage.PICTURE, Decision.ALLOW)] * 2,
        (Stage.PHOTO, kept[8].decision),
        *[(Stage.PHOTO_SET, Decision.ALLOW)] * 3,
    ]
    assert all(isinstance(record, DecisionRecord) and record.findings for record in kept)
    assert kept[2].subject == kept[3].subject != kept[0].subject, "a keyed hash of the same picture"
    assert all(record.policy == "1 general" and len(record.subject) == 64 for record in kept)
    told = moderation_statistics(catalog, began)
    assert told.total == len(kept) == sum(count.count for count in told.days)


def test_what_cannot_be_recorded_is_not_let_through(catalog):
    decisions = Decisions(catalog.engine, patience_s=0.0)
    moderation = chain(decisions)
    with catalog.engine.execution_options(writing=True).begin() as connection:
        connection.execute(text("ALTER TABLE decisions RENAME TO elsewhere"))
    verdict = moderation.prompt(PromptRequest("a portrait")).verdict
    assert verdict.decision is Decision.UNAVAILABLE
    assert [reason.code for reason in verdict.reasons] == ["not_checked"]
    (picture,) = moderation.pictures([PICTURE], Stage.PICTURE)
    assert (picture.verdict.decision, picture.action) == (Decision.UNAVAILABLE, Action.WITHHOLD)
    assert moderation.photo(PICTURE).verdict.decision is not Decision.ALLOW
    assert moderation.photo_set([PICTURE])[0].decision is Decision.UNAVAILABLE
    assert moderation.prompt(PromptRequest("a nude woman")).verdict.decision is Decision.BLOCK
    with pytest.raises(BackendError, match="could not be kept"), decisions.in_bulk():
        moderation.prompt(PromptRequest("a portrait"))


def test_records_go_when_their_time_is_over(tmp_path):
    parts = open_house(tmp_path / "home")
    began = now()
    parts.moderation.pictures([PICTURE], Stage.PICTURE)
    soon, late = began + timedelta(days=89), began + timedelta(days=91)
    assert sweep(parts.catalog, parts.storage, parts.settings, lambda: soon).decisions == 0
    keep = parts.settings.model_copy(update={"decision_days": 0.0})
    assert sweep(parts.catalog, parts.storage, keep, lambda: late).decisions == 0
    assert sweep(parts.catalog, parts.storage, parts.settings, lambda: late).decisions == 1
    assert moderation_statistics(parts.catalog, began).total == 0
    parts.studio.close()
    parts.close()

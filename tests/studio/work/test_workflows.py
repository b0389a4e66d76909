"""Places in line are kept, and what a crash left between records and workflows is made good."""

from __future__ import annotations

import dataclasses
import random
import sqlite3

import pytest

from studio.records import Run, new_id, now
from studio.work.workflows import MAX_TAKEOVERS, ROUND, _next_place
from tests.studio import toys
from tests.studio.house import furnish, open_house
from tests.studio.shop import until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def house(tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2, threads=1, log_level="ERROR")
    yield parts, furnish(parts, "alex", tmp_path / "trained")
    parts.studio.close()
    parts.close()


def waiting(user_id: str, place: int) -> Run:
    return Run(
        new_id(), user_id, "p", "train", "waiting", 0, 1, None, "", {}, {"place": place},
        now(), now(),
    )  # fmt: skip


def test_everybody_gets_one_turn_a_round_whoever_asks_for_much():
    line: list[Run] = []
    for user_id in ("ann", "ann", "ann", "ann", "bob", "cem", "bob"):
        line.append(waiting(user_id, _next_place(line, user_id)))
    order = [run.user_id for run in sorted(line, key=lambda run: run.detail["place"])]
    assert order == ["ann", "bob", "cem", "ann", "bob", "ann", "ann"]
    line = sorted(line, key=lambda run: run.detail["place"])[3:]  # three are done
    assert _next_place(line, "dan") // ROUND == line[0].detail["place"] // ROUND
    assert _next_place([], "ann") == ROUND + 1


@pytest.mark.parametrize("seed", range(5))
def test_nobody_waits_for_more_than_one_turn_of_each_of_the_others(seed):
    chance, line, served = random.Random(seed), [], []
    for _ in range(300):
        if chance.random() < 0.6 or not line:
            user_id = chance.choice(["ann"] * 8 + ["bob", "cem"])
            line.append(waiting(user_id, _next_place(line, user_id)))
            line[-1].detail["asked"] = len(served)
        else:
            line.sort(key=lambda run: run.detail["place"])
            served.append(line.pop(0))
    for number, run in enumerate(served):
        others = [run.user_id for run in served[run.detail["asked"] : number]]
        before = others.count(run.user_id) + 1
        for other in {"ann", "bob", "cem"} - {run.user_id}:
            assert others.count(other) <= before + 1, (
                f"{other} was served {others.count(other)} times"
            )


def test_what_is_asked_within_a_second_is_done_in_the_order_that_was_said(house):
    parts, first = house
    second = furnish(parts, "kim", parts.settings.home.parent / "trained-too")
    for run in parts.catalog.active_runs("generate"):
        parts.workflows.cancel(run.id)
    style = parts.studio.styles("starter")[0].id
    runs = [
        parts.studio.generate(who.user.id, who.model.id, style_ids=[style], count=1, seed=number)
        for number, who in enumerate([first] * 5 + [second] * 2)
    ]
    told = [parts.workflows.ahead(run.id) for run in runs]
    assert sorted(told) == list(range(7)), told
    assert told == [0, 2, 4, 5, 6, 1, 3]
    assert parts.workflows.ahead_of_next("generate", second.user.id) == 5
    worker = toys.start_worker(parts.settings)
    try:
        until(lambda: not parts.catalog.active_runs("generate"), "all drawings", 240)
    finally:
        worker.kill()
        worker.join()
    ended = sorted(parts.catalog.find(Run, id=[run.id for run in runs]), key=lambda r: r.updated_at)
    assert [told[[run.id for run in runs].index(run.id)] for run in ended] == list(range(7))


def status_of(parts, run_id: str) -> str | None:
    found = parts.workflows.client.list_workflows(workflow_ids=[run_id])
    return found[0].status if found else None


def force(parts, run_id: str, **values: str) -> None:
    """Bring the store into a state that only a crash leaves."""
    with sqlite3.connect(parts.settings.home / "workflows.sqlite") as store:
        for name, value in values.items():
            store.execute(
                f"update workflow_status set {name} = ? where workflow_uuid = ?", (value, run_id)
            )
    store.close()


def test_what_a_crash_left_between_records_and_workflows_is_made_good(house):
    parts, alex = house
    for run in parts.catalog.active_runs("generate"):
        parts.workflows.cancel(run.id)
    # The page was killed after the record and before the workflow.
    lost = dataclasses.replace(alex.drawing, id=new_id(), state="waiting", detail={})
    parts.catalog.add(lost)
    assert status_of(parts, lost.id) is None
    parts.workflows.mend()
    assert status_of(parts, lost.id) == "ENQUEUED"
    parts.workflows.mend()
    assert len(parts.workflows.client.list_workflows(workflow_ids=[lost.id])) == 1

    # A workflow ended and could not say so to its run.
    force(parts, lost.id, status="ERROR")
    parts.workflows.mend()
    ended = parts.catalog.get_run(lost.id)
    assert ended.state == "failed" and "try again" in ended.message

    # A worker took a job after it was struck off, and ended.
    again = dataclasses.replace(lost, id=new_id())
    parts.catalog.add(again)
    parts.workflows.mend()
    force(parts, again.id, status="PENDING", executor_id="ghost")
    parts.roster.join()
    assert parts.roster.dead() == []
    named = parts.workflows.mend()
    assert named == ["ghost"]
    assert parts.roster.enlist_lost([*named, parts.roster.worker_id]) == ["ghost"]
    assert parts.roster.enlist_lost(named) == []
    assert parts.roster.dead() == ["ghost"] and parts.roster.claim("ghost")
    assert parts.workflows.take_over("ghost") == [again.id]
    assert status_of(parts, again.id) == "ENQUEUED"
    parts.roster.strike("ghost")
    parts.roster.leave()


def test_a_run_that_had_not_begun_does_not_pay_for_the_worker_that_ended(house):
    parts, alex = house
    run = dataclasses.replace(alex.drawing, id=new_id(), state="waiting", detail={})
    parts.catalog.add(run)
    for _ in range(2 * MAX_TAKEOVERS):
        parts.workflows._count_takeover(run.id)
    assert not parts.catalog.get_run(run.id).over

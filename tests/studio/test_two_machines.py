"""Several workers on one Postgres and one storage: on one machine, and on two with nothing else in
common. Each job is done once; what one cannot finish is finished by the other."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager

import pytest

from studio.parts import Parts
from studio.records import Avatar, PersonalModel
from tests.studio import toys
from tests.studio.house import open_house
from tests.studio.shop import finished, kill, ready_set, trainers, until
from tests.studio.storm import check_records

pytestmark = pytest.mark.timeout(900)

TOY = {"min_photos": 3, "threads": 1, "log_level": "ERROR"}


@contextmanager
def machines(tmp_path, postgres):
    """Two studios in two homes with the same database and the same folder for bytes."""
    url = postgres.new_database()
    shared = {"database_url": url, "workflow_database_url": url}
    shared["storage"] = f"file://{tmp_path / 'bytes'}"
    opened = [open_house(tmp_path / name, **shared, **TOY) for name in ("here", "there")]
    yield opened
    for parts in opened:
        parts.studio.close()
        parts.close()


def workers_of(parts: Parts, run_ids: list[str]) -> dict[str, str | None]:
    flows = parts.workflows.client.list_workflows(workflow_ids=run_ids)
    return {flow.workflow_id: flow.executor_id for flow in flows}


def test_two_workers_share_the_jobs_and_do_each_once(tmp_path, postgres):
    with machines(tmp_path, postgres) as (here, there):
        user_id, set_id = ready_set(here)
        workers = [toys.start_worker(parts.settings) for parts in (here, there)]
        try:
            until(lambda: here.roster.living() == 2, "both workers", 240)
            runs = [here.studio.train(user_id, set_id, steps=60, seed=n) for n in range(4)]
            for run in runs:
                assert finished(here, run, 240).state == "done"
            model = here.studio.models(user_id)[0]
            style = here.studio.styles("starter")[0].id
            asked = {"style_ids": [style], "count": 3}
            runs += [here.studio.generate(user_id, model.id, **asked, seed=n) for n in range(4)]
            for run in runs[4:]:
                assert finished(there, run, 240).state == "done"
            assert len(set(workers_of(here, [run.id for run in runs]).values())) == 2
            assert here.catalog.count(PersonalModel) == 4 and here.catalog.count(Avatar) == 12
            check_records(there, [(run.kind, run.id) for run in runs])
        finally:
            for worker in workers:
                worker.kill()
                worker.join()


@pytest.mark.parametrize("moment", ["saving", pytest.param("learning", marks=pytest.mark.soak)])
def test_the_other_machine_finishes_what_a_lost_one_began(tmp_path, postgres, moment):
    """The lost machine took its working files along: photos are staged again, and a result that
    was not yet stored is learned again."""
    with machines(tmp_path, postgres) as (here, there):
        user_id, set_id = ready_set(here)
        first = toys.start_worker(here.settings, slow_keep=moment == "saving")
        second = None
        try:
            run = here.studio.train(user_id, set_id, steps=60)
            until(lambda: here.catalog.get_run(run.id).state == moment, f"the {moment}", 240)
            kill(first.pid)
            first.join()
            (lost,) = workers_of(here, [run.id]).values()
            second = toys.start_worker(there.settings, lost_after_s=6.0)
            ended = finished(there, run, 240)
            assert ended.state == "done", ended.message
            assert ended.detail["takeovers"]["count"] == 1
            assert workers_of(there, [run.id])[run.id] != lost
            check_records(there, [("train", run.id)])
            until(lambda: there.roster.living() == 1, "the lost one to be struck off", 120)
            assert trainers(there, toys.ToyTrainer.program) == []
            until(lambda: not there.work_folder(run.id).exists(), "working files to go", 120)
        finally:
            for worker in filter(None, (first, second)):
                worker.kill()
                worker.join()


def test_a_worker_that_was_taken_for_dead_and_wakes_up_changes_nothing(tmp_path, postgres):
    """It is stopped in the middle of drawing, for longer than the others wait, and goes on."""
    with machines(tmp_path, postgres) as (here, there):
        user_id, set_id = ready_set(here)
        sleeper = toys.start_worker(here.settings)
        second = None
        try:
            trained = finished(here, here.studio.train(user_id, set_id, steps=10), 240)
            style = here.studio.styles("starter")[0].id
            run = here.studio.generate(
                user_id, trained.detail["model_id"], style_ids=[style], count=12
            )
            until(lambda: here.catalog.count(Avatar) >= 2, "the first avatars", 240)
            os.kill(sleeper.pid, signal.SIGSTOP)
            second = toys.start_worker(there.settings, lost_after_s=6.0)
            until(lambda: "takeovers" in here.catalog.get_run(run.id).detail, "the takeover", 240)
            os.kill(sleeper.pid, signal.SIGCONT)
            assert finished(there, run, 240).state == "done"
            until(lambda: sleeper.exitcode is not None, "the sleeper to end itself", 120)
            assert sleeper.exitcode == toys.worker.STRUCK_OFF
            time.sleep(0.5)
            check_records(there, [("generate", run.id)])
        finally:
            for worker in filter(None, (sleeper, second)):
                worker.kill()
                worker.join()

"""Several people in one training job, through the studio and its worker."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from studio.work.devices import GaveUp
from studio.work.packing import Packing
from tests.aws.test_walk import PATIENCE_S, REGISTRY, ROLE
from tests.studio.shop import finished, open_shop, ready_set, until, worker
from training.errors import RequestRefused, TrainingError
from training.request import BaseRef, InstancePhoto, TrainingRequest


@pytest.mark.timeout(1200)
def test_people_who_wait_on_the_same_base_share_a_job(cloud, tmp_path, monkeypatch):
    """The states of jobs are SageMaker's; the image only counts steps, since packing is meant."""
    for name in ("IAM", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", cloud.s3_url)
    parts = open_shop(
        tmp_path / "home", storage=f"s3://{cloud.bucket}/studio", moderation="aws",
        trainer="sagemaker", aws_role=ROLE, aws_trainer_image=f"{REGISTRY}/states:1",
        aws_poll_seconds=0.3, aws_pack_people=2, aws_pack_seconds=300.0,
    )  # fmt: skip
    sets = [ready_set(parts, name) for name in ("Alex", "Bea", "Cem")]
    runs = [parts.studio.train(user_id, set_id, steps=6) for user_id, set_id in sets]
    with worker(parts):
        done = [finished(parts, run, PATIENCE_S) for run in runs]
        assert [run.state for run in done] == ["done"] * 3, [run.message for run in done]
        jobs = [call.parameters for call in cloud.server.called("CreateTrainingJob")]
        people = [
            sum(channel["ChannelName"].startswith("person-") for channel in job["InputDataConfig"])
            for job in jobs
        ]
        assert people == [2, 1], "the third has nobody to wait for, and waits for nobody"
        models = [parts.studio.model(user, run.detail["model_id"])
                  for (user, _), run in zip(sets, done, strict=True)]  # fmt: skip
        assert len({model.person_id for model in models}) == 3
        until(
            lambda: not [k for k in cloud.stored("studio-training/runs/")],
            "everybody's photos to go",
            PATIENCE_S,
        )
    parts.close()


class Book:
    """Run records, as far as packing asks for them."""

    def __init__(self, *run_ids):
        self.rows = {
            name: SimpleNamespace(id=name, detail={}, request={"base_id": "tiny"}, over=False)
            for name in run_ids
        }

    def get_run(self, run_id):
        return self.rows[run_id]

    def active_runs(self, _kind):
        return [row for row in self.rows.values() if not row.over]

    def update_run(self, run_id, *, detail):
        self.rows[run_id].detail.update(detail)
        return True


class Jobs:
    """A trainer that only writes down who shared what."""

    def __init__(self, known=()):
        self.started, self.known = [], set(known)

    def start(self, request):
        self.started.append([request.run_id])
        return f"alone {request.run_id}"

    def start_packed(self, requests):
        ids = [request.run_id for request in requests]
        self.started.append(ids)
        return [f"{'+'.join(ids)} {name}" for name in ids]

    def find_packed(self, run_ids, request):
        return "found" if tuple(run_ids) in self.known else None


def request_of(name):
    base = BaseRef(id="tiny", family="starter", folder=Path("base"), sha256="a" * 64)
    photos = (InstancePhoto(path=Path("a.png")),)
    return TrainingRequest.model_construct(
        run_id=name, base=base, photos=photos, run_folder=Path(name)
    )


def begin(packing, jobs, request, stop=lambda: False):
    """Start in a thread; a list that gets the handle, or what was raised."""
    said = []

    def work():
        try:
            said.append(packing.start(jobs, request, stop))
        except Exception as fault:  # noqa: BLE001 - handed to the test
            said.append(fault)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, said


def test_nobody_waits_where_nobody_else_comes_or_packing_is_off():
    jobs = Jobs()
    begun = time.monotonic()
    assert Packing(Book("a"), most=4, wait_s=60).start(jobs, request_of("a"), bool) == "a a"
    assert Packing(Book("a"), most=1, wait_s=60).start(jobs, request_of("a"), bool) == "alone a"
    assert time.monotonic() - begun < 5


def test_a_group_starts_late_rather_than_never_and_takes_no_more_than_fit():
    book, jobs = Book("a", "b", "c", "never"), Jobs()
    packing = Packing(book, most=2, wait_s=1.0)
    threads = [begin(packing, jobs, request_of(name)) for name in ("a", "b", "c")]
    for thread, _ in threads:
        thread.join(20)
    assert sorted(map(len, jobs.started)) == [1, 2]
    assert all(len(said) == 1 and isinstance(said[0], str) for _, said in threads)
    assert all(book.rows[name].detail["pack"] for name in "abc")


def test_one_who_cancels_leaves_the_others_to_go_on():
    book, jobs = Book("a", "b", "c"), Jobs()
    packing = Packing(book, most=3, wait_s=60)
    gone = threading.Event()
    first, said = begin(packing, jobs, request_of("a"), gone.is_set)
    time.sleep(0.3)
    second, kept = begin(packing, jobs, request_of("b"))
    gone.set()
    first.join(20)
    assert isinstance(said[0], GaveUp)
    book.rows["a"].over = True
    third, also = begin(packing, jobs, request_of("c"))
    for thread in (second, third):
        thread.join(20)
    assert jobs.started == [["b", "c"]] and (kept, also) == (["b+c b"], ["b+c c"])


def test_a_worker_that_starts_again_finds_the_job_or_goes_alone():
    book = Book("a", "b")
    book.rows["a"].detail["pack"] = ["a", "b"]
    packing = Packing(book, most=2, wait_s=60)
    assert packing.start(Jobs(known=[("a", "b")]), request_of("a"), bool) == "found"
    jobs = Jobs()
    assert packing.start(jobs, request_of("a"), bool) == "alone a"


def test_one_persons_bad_request_is_theirs_and_a_full_account_is_everybodys():
    class Strict(Jobs):
        def start_packed(self, requests):
            if any(request.run_id == "bad" for request in requests):
                raise RequestRefused("photos", 1, "too few.")
            return super().start_packed(requests)

    jobs, packing = Strict(), Packing(Book("a", "bad", "c"), most=3, wait_s=60)
    told = {name: begin(packing, jobs, request_of(name)) for name in ("a", "bad", "c")}
    for thread, _ in told.values():
        thread.join(20)
    assert "too few" in str(told["bad"][1][0])
    assert (told["a"][1], told["c"][1]) == (["a a"], ["c c"])

    class Full(Jobs):
        def start_packed(self, requests):
            raise TrainingError("the quota is used up")

    packing = Packing(Book("a", "b"), most=2, wait_s=60)
    for thread, said in [begin(packing, Full(), request_of(name)) for name in ("a", "b")]:
        thread.join(20)
        assert "quota" in str(said[0])

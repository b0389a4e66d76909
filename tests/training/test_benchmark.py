"""Our side of `benchmarks.training`; the peer's script is never in the project."""

import pytest

from benchmarks.training_job import make_job, make_photos
from benchmarks.training_meter import Seen
from benchmarks.training_ours import run_ours
from tests.tiny_bases import tiny_base


def test_two_people_are_timed_step_by_step_in_a_process_of_their_own(tmp_path):
    job = make_job(
        "tiny",
        tiny_base(tmp_path / "base", "sdxl"),
        make_photos(tmp_path / "photos"),
        tmp_path / "job",
        steps=6,
        precision="fp32",
        device="cpu",
        threads=1,
    )
    timing = run_ours(job, people=2)
    assert timing.name == "ours, 2 people at once"
    assert list(timing.phases) == [
        "import_s",
        "load_s",
        "class_s",
        "prepare_s",
        "learn_s",
        "save_s",
    ]
    assert 0 < sum(timing.phases.values()) < timing.job_s + 1
    assert timing.steps_per_s > 0
    assert timing.peak_mb > 50
    # a step of two people costs twice that of one, whatever the machine
    alone = run_ours(job)
    assert timing.step_flops == pytest.approx(2 * alone.step_flops, rel=0.02)
    for number in range(2):
        assert list((job.work / "ours-2" / str(number)).rglob("adapter.json"))


def test_a_run_that_did_not_train_ends_the_benchmark_with_its_output():
    seen = Seen(begun=0.0, log=b"loading\nRuntimeError: no such base", code=1)
    with pytest.raises(SystemExit, match=r"exit code 1(.|\n)*no such base"):
        seen.timing("ours", {})

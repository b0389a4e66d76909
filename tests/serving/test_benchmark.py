"""The serving benchmark runs whole on a tiny base, so that minutes on a GPU are not lost to it."""

from __future__ import annotations

import json

import pytest

from benchmarks.serving import main
from benchmarks.serving_aims import aims, compared

RUN = ["--quick", "--device", "cpu"]


def test_every_part_gives_its_figures(bases, tmp_path, capsys, monkeypatch):
    for name, small in (("QUALITIES", ("fast",)), ("BATCHES", (1, 2)), ("ZIPF_PEOPLE", 8)):
        monkeypatch.setattr(f"benchmarks.serving.{name}", small)
    out = tmp_path / "figures.json"
    main([*RUN, "--base", str(bases["sdxl"].folder), "--json", str(out)])
    figures = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    assert "failed" not in figures
    for name in (
        "latency_fast_ratio", "switch_resident_ratio", "switch_host_ratio", "switch_disk_ratio",
        "mixed_batch_ratio", "people_per_gb_ratio", "zipf_ratio", "decode_alone_ratio",
        "unet_channels_last_ratio", "unet_plain_attention_ratio",
    ):  # fmt: skip
        assert figures[name] > 0
    assert [row["aim"] for row in figures["aims"]] == [a.says for a in aims("sdxl", cuda=False)]


def test_a_part_that_fails_is_named_and_spoils_no_other(bases, tmp_path, monkeypatch):
    out = tmp_path / "figures.json"
    monkeypatch.setattr("benchmarks.serving.BATCHES", (17,))
    with pytest.raises(SystemExit):
        main(
            [
                *RUN,
                "--base",
                str(bases["starter"].folder),
                "--json",
                str(out),
                "--only",
                "batches",
                "memory",
            ]
        )
    figures = json.loads(out.read_text())
    assert "IndexError" in figures["failed"]["batches"]
    assert figures["people_per_gb_ratio"] > 1


def test_an_aim_is_met_from_its_own_side():
    figures = {"switch_resident_ms": 0.9, "switch_resident_ratio": 19.0, "mixed_batch_ratio": 1.0}
    met = {row["aim"]: row["met"] for row in compared(figures, aims("starter", cuda=False))}
    assert list(met.values()) == [True, False, True]
    asked = {aim.figure: aim.bound for aim in aims("sd15", cuda=True)}
    assert asked["mixed_batch_ratio"] == 2.0 and asked["latency_best_ratio"] == 1.5
    assert asked["people_per_gb_ratio"] == 100.0

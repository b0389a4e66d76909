"""What AWS charges for what the studio does: estimates from dated prices, never an offer."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.errors import BackendError
from studio.settings import Settings

PRICES = Path(__file__).with_name("aws_prices.toml")


@dataclass(frozen=True)
class Cost:
    """One line of the sheet: what, for how many, and what it costs in US dollars."""

    what: str
    unit: str
    dollars: float
    how: str


@dataclass(frozen=True)
class TrainingCost:
    """What one person's training takes at AWS, start included, and costs when it has a job alone.

    `dollars` is None where no price is known; `how` says on what both are based.
    """

    seconds: float
    dollars: float | None
    how: str


def costs(settings: Settings, *, endpoint_instance: str, steps: int = 0) -> dict[str, Any]:
    """The cost sheet: per person, per picture, per prompt, and what idles cost by the hour.

    Raises `BackendError` when the price file cannot be read or lacks an instance.
    """
    table = _table(settings)
    lines = list(_lines(settings, table, endpoint_instance, steps or table["times"]["steps"]))
    return {
        "date": table["date"],
        "region": table["region"],
        "costs": [asdict(line) for line in lines],
    }


def training(settings: Settings, steps: int, family: str, people: int = 1) -> TrainingCost:
    """Time and price of training one person, of `people` who share the job.

    Raises `BackendError` when the price file cannot be read.
    """
    table = _table(settings)
    times, instance = table["times"], settings.aws_trainer_instance
    learning = steps * float(table["seconds_per_step"][family])
    seconds = float(times["start_s"]) / people + learning
    kind = "spot" if settings.aws_spot else "on demand"
    share = times["spot_share"] if settings.aws_spot else 1.0
    try:
        dollars = round(seconds / 3600 * _rate(table, "training_hour", instance) * share, 4)
    except BackendError as fault:
        return TrainingCost(seconds, None, str(fault))
    how = f"{steps} steps on {instance}, {kind}, at prices of {table['date']}"
    return TrainingCost(times["start_s"] + people * learning, dollars, how)


def cost_words(cost: TrainingCost) -> str:
    """An estimate in a sentence."""
    minutes = max(1, round(cost.seconds / 60))
    price = f"costs about ${cost.dollars:.2f}" if cost.dollars is not None else "has no known price"
    return f"A training at AWS takes about {minutes} minutes and {price} ({cost.how})."


def _table(settings: Settings) -> dict[str, Any]:
    try:
        return tomllib.loads((settings.aws_prices_file or PRICES).read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise BackendError(f"The prices cannot be read: {fault}") from fault


def _lines(
    settings: Settings, table: dict[str, Any], endpoint_instance: str, steps: int
) -> Iterator[Cost]:
    calls, times = table["calls"], table["times"]
    for people, what in ((1, "person trained"), (8, "person trained, eight in a job")):
        cost = training(settings, steps, "sd21", people)
        if cost.dollars is None:
            raise BackendError(cost.how)
        shared = "" if people == 1 else "; the start is paid once"
        yield Cost(what, "person", cost.dollars, f"{cost.how}{shared}")
    serving = _rate(table, "endpoint_hour", endpoint_instance)
    drawn = times["seconds_per_picture"] / 3600 * serving
    yield Cost(
        "picture drawn", "1000 pictures", round(1000 * drawn, 4),
        f"{times['seconds_per_picture']} s on {endpoint_instance}, which must exist meanwhile",
    )  # fmt: skip
    picture = calls["rekognition_picture"]
    yield Cost("picture moderated", "1000 pictures", round(1000 * picture, 4), "one question each")
    yield Cost(
        "photos screened", "person of 12 photos", round((12 + 12 + 11) * picture, 4),
        "12 for moderation, 12 for faces, 11 for the same person",
    )  # fmt: skip
    units = max(calls["comprehend_toxic_least_units"], 2)
    yield Cost(
        "prompt moderated", "1000 prompts", round(1000 * units * calls["comprehend_toxic_unit"], 4),
        "toxic content, up to 300 characters",
    )  # fmt: skip
    yield Cost("idle endpoint", "hour", serving, f"one {endpoint_instance}")
    yield Cost(
        "idle asynchronous endpoint", "hour", 0.0, "it has no machine while nothing is in line"
    )  # fmt: skip
    yield Cost(
        "idle classifier", "hour", round(3600 * calls["comprehend_classify_second"], 4),
        "one inference unit of a Comprehend endpoint",
    )  # fmt: skip
    yield Cost(
        "stored", "GB and month", calls["s3_gb_month"],
        "photos, models and avatars in S3, old versions included",
    )  # fmt: skip


def _rate(table: dict[str, Any], kind: str, instance: str) -> float:
    try:
        return float(table[kind][instance])
    except KeyError as fault:
        known = ", ".join(table.get(kind, {}))
        raise BackendError(
            f"There is no price for {instance} in [{kind}]; there is one for {known}."
        ) from fault

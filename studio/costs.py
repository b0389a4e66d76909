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


def costs(
    settings: Settings, *, endpoint_instance: str, steps: int = 0, prices: Path | None = None
) -> dict[str, Any]:
    """The cost sheet: per person, per picture, per prompt, and what idles cost by the hour.

    Raises `BackendError` when the price file cannot be read or lacks an instance.
    """
    try:
        table = tomllib.loads((prices or PRICES).read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise BackendError(f"The prices cannot be read: {fault}") from fault
    lines = list(_lines(settings, table, endpoint_instance, steps or table["times"]["steps"]))
    return {
        "date": table["date"],
        "region": table["region"],
        "costs": [asdict(line) for line in lines],
    }


def training_seconds(table: dict[str, Any], steps: int) -> float:
    """Seconds that are billed for one person alone, start included."""
    times = table["times"]
    return float(times["start_s"] + steps * times["seconds_per_step"])


def _lines(
    settings: Settings, table: dict[str, Any], endpoint_instance: str, steps: int
) -> Iterator[Cost]:
    calls, times = table["calls"], table["times"]
    trainer = settings.aws_trainer_instance
    hour = _rate(table, "training_hour", trainer)
    share = times["spot_share"] if settings.aws_spot else 1.0
    seconds = training_seconds(table, steps)
    kind = "spot" if settings.aws_spot else "on demand"
    yield Cost(
        "person trained", "person", round(seconds / 3600 * hour * share, 4),
        f"{steps} steps, {seconds:.0f} s on {trainer}, {kind}",
    )  # fmt: skip
    packed = times["start_s"] / 8 + steps * times["seconds_per_step"]
    yield Cost(
        "person trained, eight in a job", "person", round(packed / 3600 * hour * share, 4),
        "the start is paid once; steps counted as if they ran one after the other",
    )  # fmt: skip
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

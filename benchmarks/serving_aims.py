"""What the serving benchmark is to reach, beside what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Aim:
    """A figure and its bound: `least` from below, or else from above."""

    figure: str
    bound: float
    says: str
    least: bool = True

    def met(self, reached: float) -> bool:
        """Whether a figure is within the bound."""
        return reached >= self.bound if self.least else reached <= self.bound


def aims(family: str, *, cuda: bool) -> list[Aim]:
    """What counts for a base of this family on this kind of device."""
    asked = [
        Aim("switch_resident_ms", 1.0, "switching to a resident person, in ms", least=False),
        Aim("switch_resident_ratio", 20.0, "hot-swap takes this many times as long"),
    ]
    if not cuda:
        return [*asked, Aim("mixed_batch_ratio", 1.0, "one after another against a mixed batch")]
    asked += [
        Aim(f"latency_{quality}_ratio", 1.5, f"stock diffusers' {quality} picture against ours")
        for quality in ("fast", "balanced", "best")
    ]
    if family == "sd15":
        asked += [
            Aim("mixed_batch_ratio", 2.0, "one after another against a mixed batch"),
            Aim("people_per_gb_ratio", 100.0, "people a GB against a pipeline for each"),
        ]
    return asked


def compared(figures: Mapping[str, Any], asked: list[Aim]) -> list[dict[str, Any]]:
    """Every aim whose figure was measured, with what was reached."""
    return [
        {
            "aim": aim.says,
            "wanted": f"{'>=' if aim.least else '<='} {aim.bound:g}",
            "reached": figures[aim.figure],
            "met": aim.met(figures[aim.figure]),
        }
        for aim in asked
        if aim.figure in figures
    ]

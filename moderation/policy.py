"""Policy: what a label with a score means at a stage, and what is done about it.

Reads `policy.toml` or a host's own file of the same form. Knows no backend: every check reports
labels, and only this file turns them into decisions and actions.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from moderation.verdict import Decision, Finding, Stage, Verdict

SHIPPED = Path(__file__).with_name("policy.toml")
PRESETS = ("general", "family", "brand-safe")
NOTHING_FOUND = "none"
"""The label of the finding that says: this check ran and found nothing."""
NOT_CHECKED = "not checked"
"""The label of the finding that says: this check did not answer."""


class Action(StrEnum):
    """What happens to a picture or a text after its verdict, mildest first."""

    SHOW = "show"
    BLUR = "blur"
    HOLD = "hold"
    WITHHOLD = "withhold"


_STRICTNESS = {action: rank for rank, action in enumerate(Action)}
_SEVERITY = {Decision.ALLOW: 0, Decision.REVIEW: 1, Decision.UNAVAILABLE: 2, Decision.BLOCK: 3}


class PolicyError(ValueError):
    """A policy file says something impossible; the message names the file and the place."""


@dataclass(frozen=True)
class Label:
    """What a check saw. `score` is in 0..1; `parent` matters for names policy does not know."""

    name: str
    score: float
    parent: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.score, bool) or not isinstance(self.score, int | float):
            raise ValueError(f"The score of label {self.name!r} is {self.score!r}, not a number.")
        if not (math.isfinite(self.score) and 0.0 <= self.score <= 1.0):
            raise ValueError(f"The score of label {self.name!r} is {self.score!r}, not in 0..1.")


@dataclass(frozen=True)
class Rule:
    """What a category means at one stage. Fields as explained at the top of `policy.toml`."""

    threshold: float
    decision: Decision
    action: Action
    retry: bool
    exempt: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Policy:
    """One loaded policy under one preset. `version` and `preset` are part of every record."""

    version: str
    preset: str
    rules: Mapping[str, Rule]
    stage_rules: Mapping[tuple[str, Stage], Rule]
    category_of: Mapping[str, str]
    parents: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def rule(self, category: str, stage: Stage) -> Rule:
        """The rule for a category at a stage; an unknown category gets the rule `unknown`."""
        known = category if category in self.rules else "unknown"
        return self.stage_rules.get((known, stage), self.rules[known])

    def canonical(self, label: Label) -> Label:
        """The label under its present name (an old taxonomy's name is an alias)."""
        return replace(label, name=self.aliases.get(label.name, label.name))

    def category(self, name: str) -> str | None:
        """The category a label decides for, or None for a level 3 label, which only exempts."""
        if name in self.category_of:
            return self.category_of[name]
        return None if name in self.parents else "unknown"

    def judge(
        self, labels: Sequence[Label], stage: Stage, backend: str, version: str, ms: float
    ) -> Verdict:
        """Decide on what one check saw. Labels below their threshold are kept as evidence too.

        No labels at all is an allow *by a check that ran*; a check that did not answer must return
        `unavailable(...)` instead of calling this.
        """
        known = self._closed([self.canonical(label) for label in labels])
        if not known:
            seen = Finding(stage, backend, version, NOTHING_FOUND, 0.0, 1.0, ms)
            return Verdict(Decision.ALLOW, (seen,))
        worst = Decision.ALLOW
        findings = []
        for label in known:
            rule = self.rule(self.category(label.name) or self._decider(label.name), stage)
            findings.append(
                Finding(stage, backend, version, label.name, label.score, rule.threshold, ms)
            )
            if self._counts(label, known, stage) and _SEVERITY[rule.decision] > _SEVERITY[worst]:
                worst = rule.decision
        return Verdict(worst, tuple(findings))

    def action(self, verdict: Verdict, stage: Stage) -> tuple[Action, bool]:
        """What to do, and whether to try again with a new seed. Only an allow is ever shown."""
        if verdict.decision is Decision.UNAVAILABLE:
            return Action.WITHHOLD, False
        if verdict.decision is Decision.ALLOW:
            return Action.SHOW, False
        labels = self._closed([Label(f.label, f.score) for f in verdict.findings])
        deciding = [
            self.rule(self.category(label.name) or "unknown", stage)
            for label in labels
            if label.name not in (NOTHING_FOUND, NOT_CHECKED) and self._counts(label, labels, stage)
        ]
        deciding = [rule for rule in deciding if rule.decision is not Decision.ALLOW]
        if not deciding:
            return Action.WITHHOLD, False
        strictest = max((rule.action for rule in deciding), key=_STRICTNESS.__getitem__)
        retry = all(rule.retry for rule in deciding)
        return (Action.HOLD if strictest is Action.SHOW else strictest), retry

    def decide(self, findings: Iterable[Finding]) -> Decision:
        """The decision this policy takes on evidence gathered earlier, maybe by another policy."""
        groups: dict[tuple[Stage, str, str], list[Finding]] = {}
        for finding in findings:
            key = (finding.stage, finding.backend, finding.version)
            groups.setdefault(key, []).append(finding)
        if not groups:
            return Decision.UNAVAILABLE
        decisions = [self._decide_group(stage, group) for (stage, *_), group in groups.items()]
        return max(decisions, key=_SEVERITY.__getitem__)

    def _decide_group(self, stage: Stage, findings: Sequence[Finding]) -> Decision:
        if any(f.label == NOT_CHECKED for f in findings):
            return Decision.UNAVAILABLE
        labels = [Label(f.label, f.score) for f in findings if f.label != NOTHING_FOUND]
        return self.judge(labels, stage, "", "", 0.0).decision

    def _closed(self, labels: Sequence[Label]) -> list[Label]:
        """Names we know, and `unknown` for each name we do not, unless its parent speaks.

        A level 3 label that came without its parents speaks for them: an odd answer never allows.
        """
        labels = [*labels, *self._silent_parents(labels)]
        names = {label.name for label in labels}
        closed = []
        for label in labels:
            if label.name in self.category_of or label.name in self.parents:
                closed.append(label)
            elif not (label.parent and label.parent in names):
                closed.append(replace(label, name="unknown"))
        return closed

    def _silent_parents(self, labels: Sequence[Label]) -> list[Label]:
        named = {label.name for label in labels}
        return [
            replace(label, name=self.parents[label.name], parent="")
            for label in labels
            if self.category(label.name) is None and named.isdisjoint(self._above(label.name))
        ]

    def _above(self, name: str) -> Iterator[str]:
        while name in self.parents:
            name = self.parents[name]
            yield name

    def _decider(self, name: str) -> str:
        """The category whose threshold is shown beside a level 3 label."""
        parent = self.parents.get(name, "")
        return self.category_of.get(parent, "unknown")

    def _counts(self, label: Label, labels: Sequence[Label], stage: Stage) -> bool:
        """Whether this label reaches its threshold and is not excused by exempt level 3 labels."""
        category = self.category(label.name)
        if category is None or label.score < self.rule(category, stage).threshold:
            return False
        return not self._excused(label.name, labels, stage)

    def _excused(self, name: str, labels: Sequence[Label], stage: Stage) -> bool:
        """A parent is excused when every label reported below it is exempt or itself excused.

        A child with a category of its own answers for itself and does not condemn its parent.
        """
        below = [label for label in labels if self.parents.get(label.name) == name]
        return bool(below) and all(
            self._is_exempt(child.name, name, stage)
            or self._answers_for_itself(child, labels, stage)
            for child in below
        )

    def _is_exempt(self, child: str, parent: str, stage: Stage) -> bool:
        return child in self.rule(self.category(parent) or "unknown", stage).exempt

    def _answers_for_itself(self, child: Label, labels: Sequence[Label], stage: Stage) -> bool:
        own = self.category_of.get(child.name)
        if own is None:
            return False
        parent = self.category_of.get(self.parents.get(child.name, ""))
        return own != parent or self._excused(child.name, labels, stage)


def unavailable(stage: Stage, backend: str, version: str, ms: float) -> Verdict:
    """The verdict of a check that did not answer. `ms` is how long it was waited for."""
    return Verdict(
        Decision.UNAVAILABLE, (Finding(stage, backend, version, NOT_CHECKED, 0.0, 1.0, ms),)
    )


def _rule(raw: Mapping[str, Any], where: str) -> Rule:
    unknown = set(raw) - {"threshold", "decision", "action", "retry", "exempt"}
    if unknown:
        raise PolicyError(f"{where}: unknown key {sorted(unknown)[0]!r}.")
    try:
        threshold = float(raw["threshold"])
        rule = Rule(
            threshold,
            Decision(raw["decision"]),
            Action(raw["action"]),
            bool(raw["retry"]),
            frozenset(raw.get("exempt", ())),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise PolicyError(f"{where}: {error}.") from error
    if not 0.0 < threshold <= 1.0:
        raise PolicyError(f"{where}: `threshold` must be above 0 and at most 1, not {threshold}.")
    if rule.decision is Decision.UNAVAILABLE:
        raise PolicyError(f"{where}: `decision` must be allow, review or block.")
    return rule


def load_policy(preset: str = "general", file: Path | None = None) -> Policy:
    """Read the shipped policy, or a host's own file of the same form, under one preset.

    Raises PolicyError when the preset or anything in the file is not understood.
    """
    path = file or SHIPPED
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"The policy file {path} cannot be read: {error}.") from error
    presets = raw.get("presets", {})
    if preset not in presets:
        raise PolicyError(f"{path}: no preset {preset!r}; there are {', '.join(sorted(presets))}.")
    categories = raw.get("categories", {})
    if "unknown" not in categories:
        raise PolicyError(f"{path}: the category 'unknown' is missing.")
    changes = presets[preset]
    stray = set(changes) - set(categories)
    if stray:
        raise PolicyError(
            f"{path}: preset {preset!r} changes {sorted(stray)[0]!r}, which is unknown."
        )
    rules: dict[str, Rule] = {}
    stage_rules: dict[tuple[str, Stage], Rule] = {}
    category_of: dict[str, str] = {}
    for name, category in categories.items():
        change = changes.get(name, {})
        base = {**category.get("rule", {}), **change.get("rule", {})}
        rules[name] = _rule(base, f"{path}: category {name!r}")
        stages = {**category.get("stages", {})}
        for stage, keys in change.get("stages", {}).items():
            stages[stage] = {**stages.get(stage, {}), **keys}
        for stage, keys in stages.items():
            if stage not in set(Stage):
                raise PolicyError(f"{path}: category {name!r} names the unknown stage {stage!r}.")
            merged = {
                **base,
                **keys,
                **change.get("rule", {}),
                **change.get("stages", {}).get(stage, {}),
            }
            stage_rules[name, Stage(stage)] = _rule(merged, f"{path}: {name!r} at {stage!r}")
        category_of.update(dict.fromkeys(category.get("labels", ()), name))
    return Policy(
        str(raw.get("version", "")),
        preset,
        rules,
        stage_rules,
        category_of,
        raw.get("parents", {}),
        raw.get("aliases", {}),
    )

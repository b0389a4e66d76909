"""Policy: levels, exemptions, old names, presets, actions, and files that make no sense."""

from pathlib import Path

import pytest

from moderation.policy import (
    NOTHING_FOUND,
    PRESETS,
    Action,
    Label,
    PolicyError,
    load_policy,
    unavailable,
)
from moderation.verdict import Decision, Stage, Verdict

GENERAL = load_policy()


def judged(
    *labels: tuple[str, float], stage: Stage = Stage.PICTURE, preset: str = "general"
) -> tuple:
    policy = load_policy(preset)
    verdict = policy.judge([Label(n, s) for n, s in labels], stage, "test", "1", 1.0)
    return verdict.decision, *policy.action(verdict, stage)


NUDITY = "Non-Explicit Nudity of Intimate parts and Kissing"


def test_level_one_and_two_decide() -> None:
    found = judged(("Explicit", 0.9), ("Explicit Nudity", 0.9), ("Exposed Female Nipple", 0.9))
    assert found == (Decision.BLOCK, Action.WITHHOLD, True)


def test_a_level_three_label_decides_nothing_beside_its_parents() -> None:
    unsure = ("Explicit", 0.2), ("Explicit Nudity", 0.2)
    assert judged(*unsure, ("Exposed Female Nipple", 0.99))[0] is Decision.ALLOW


def test_a_level_three_label_without_its_parents_speaks_for_them() -> None:
    assert judged(("Exposed Female Nipple", 0.99)) == (Decision.BLOCK, Action.WITHHOLD, True)
    assert judged(("Exposed Male Nipple", 0.99))[0] is Decision.ALLOW


def test_a_level_three_exemption_excuses_its_parents() -> None:
    shirtless = ((NUDITY, 0.9), ("Non-Explicit Nudity", 0.9), ("Exposed Male Nipple", 0.9))
    assert judged(*shirtless)[0] is Decision.ALLOW
    assert judged(*shirtless, ("Implied Nudity", 0.9))[:2] == (Decision.REVIEW, Action.BLUR)


def test_old_names_are_understood() -> None:
    assert judged(("Graphic Male Nudity", 0.8))[0] is Decision.BLOCK
    assert judged(("Barechested Male", 0.8), ("Suggestive", 0.8))[0] is Decision.REVIEW
    assert judged(("Female Swimwear Or Underwear", 0.99))[0] is Decision.ALLOW


def test_an_unknown_label_is_reviewed_unless_its_known_parent_speaks() -> None:
    assert judged(("Something New", 0.9))[0] is Decision.REVIEW
    known = Label("Brand New Drink", 0.99, parent="Alcohol")
    verdict = GENERAL.judge([Label("Alcohol", 0.5), known], Stage.PICTURE, "t", "1", 1.0)
    assert verdict.decision is Decision.ALLOW


@pytest.mark.parametrize(
    ("preset", "decision"), [("general", "allow"), ("family", "review"), ("brand-safe", "block")]
)
def test_presets_differ(preset: str, decision: str) -> None:
    assert judged(("Swimwear or Underwear", 0.85), preset=preset)[0] == decision


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "label", ["minors", "sexual", "violent", "hate", "Explicit", "public_figure"]
)
@pytest.mark.parametrize("stage", [Stage.PROMPT, Stage.PICTURE, Stage.CLASS_PICTURE, Stage.PREVIEW])
def test_the_worst_is_blocked_and_withheld_by_every_preset(
    preset: str, label: str, stage: Stage
) -> None:
    assert judged((label, 1.0), stage=stage, preset=preset)[:2] == (Decision.BLOCK, Action.WITHHOLD)


def test_minors_are_never_tried_again() -> None:
    assert judged(("minors", 1.0), ("sexual", 1.0))[2] is False


def test_nothing_found_is_an_allow_with_evidence() -> None:
    verdict = GENERAL.judge([], Stage.PICTURE, "test", "1", 2.0)
    assert verdict.allowed and verdict.findings[0].label == NOTHING_FOUND


def test_a_check_that_did_not_answer_is_withheld_without_retry() -> None:
    verdict = unavailable(Stage.PICTURE, "test", "1", 5.0)
    assert GENERAL.action(verdict, Stage.PICTURE) == (Action.WITHHOLD, False)
    assert GENERAL.decide(verdict.findings) is Decision.UNAVAILABLE


def test_no_evidence_is_never_an_allow_and_never_shown() -> None:
    assert GENERAL.decide([]) is Decision.UNAVAILABLE
    assert GENERAL.action(Verdict(Decision.REVIEW), Stage.PICTURE) == (Action.WITHHOLD, False)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1, "0.9", None, True])
def test_a_score_that_is_none_is_refused(score: object) -> None:
    with pytest.raises(ValueError, match="score"):
        Label("Explicit", score)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ('decision = "perhaps"', "perhaps"),
        ("threshold = 0.0", "threshold"),
        ('decision = "unavailable"', "decision"),
        ("colour = 3", "colour"),
    ],
)
def test_a_rule_that_makes_no_sense_is_named(tmp_path: Path, change: str, complaint: str) -> None:
    keys = {"threshold": "0.5", "decision": '"block"', "action": '"withhold"', "retry": "false"}
    key, value = change.split(" = ", 1)
    keys[key] = value
    rule = ", ".join(f"{k} = {v}" for k, v in keys.items())
    file = tmp_path / "policy.toml"
    file.write_text(
        f'version="1"\n[presets.general]\n[categories.unknown]\nlabels=["unknown"]\nrule={{ {rule} }}\n'
    )
    with pytest.raises(PolicyError, match=complaint):
        load_policy("general", file)


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(PolicyError, match="brand-safe"):
        load_policy("relaxed")

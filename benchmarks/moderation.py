"""How much the moderation chain stops, of what, how fast: python -m benchmarks.moderation [--quick]

Rows the shipped classifier was trained on would flatter it, so its column here comes from models
trained without the row's fold, with an operating point chosen without that fold too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.evasion import TRANSFORMS
from moderation import train
from moderation.chain import TEXT_STAGES, Layers, Moderation, ModerationConfig, PromptRequest, build
from moderation.corpus import calibration
from moderation.photos import LocalPhotoCheck, PhotoRules
from moderation.pictures import PictureChoice
from moderation.policy import load_policy
from moderation.rules import Rules
from moderation.texts import ReadabilityCheck, RulesCheck
from moderation.toxicity import ToxicityCheck, load
from moderation.verdict import Stage

ROWS = Path(__file__).with_name("data") / "moderation" / "prompts.jsonl"
PEERS = "pip install better-profanity==0.7.0 alt-profanity-check==1.9.1"


@dataclass(frozen=True)
class Row:
    """A text with what should happen to it; `group` is how the table names its set."""

    text: str
    group: str
    harmful: bool
    picture: bool
    lang: str


def rows() -> list[Row]:
    """The development rows and the harmless prompts nothing was trained on."""
    found = []
    for line in ROWS.read_text("utf-8").splitlines():
        raw = json.loads(line)
        source, harmful = raw["source"], raw["label"] == "block"
        picture = source in ("adversarial-nibbler", "parti-prompts", "facechain-styles")
        detail = f" {raw['category']}" if source == "adversarial-nibbler" else ""
        group = f"{source}{detail}"
        found.append(Row(raw["text"], group, harmful, picture, raw["lang"]))
    found += [Row(e.text, "captions and styles", False, True, "en") for e in calibration()]
    return found


def unseen(every: Sequence[Row], folds: int, authored: int) -> dict[str, bool]:
    """For each text: does a classifier that never saw its fold stop it."""
    examples = [*train.gathered(ROWS, authored), *calibration()]
    scores = train.unseen_scores(examples, folds)
    place = train.folds(examples, folds)
    model = train.fit([e for e in examples if e.source != "calibration"])
    for index, example in enumerate(examples):
        if example.source == "calibration":
            scores[index] = train.highest(model, example.text)
    answers: dict[str, bool] = {}
    for fold in range(folds):
        others = [e for e, p in zip(examples, place, strict=True) if p != fold]
        limits = train.operating_point(others, scores[place != fold], train.FALSE_SHARE)
        for index in np.flatnonzero(place == fold):
            if not np.isnan(scores[index, 0]):
                answers[examples[index].text] = bool((scores[index] > limits).any())
    # Scripts that the classifier does not read are answered by the readability check.
    return {row.text: answers.get(row.text, False) for row in every}


def peers() -> dict[str, Callable[[str], bool]]:
    """Other open filters, as they are shipped; those not installed are left out."""
    found: dict[str, Callable[[str], bool]] = {}
    try:
        from better_profanity import profanity

        profanity.load_censor_words()
        found["better-profanity"] = lambda text: bool(profanity.contains_profanity(text))
    except ImportError:
        print(f"better-profanity is not installed: {PEERS}", file=sys.stderr)
    try:
        from profanity_check import predict_prob

        found["alt-profanity-check"] = lambda text: bool(predict_prob([text])[0] >= 0.5)
    except ImportError:
        print(f"alt-profanity-check is not installed: {PEERS}", file=sys.stderr)
    return found


def timed(call: Callable[[str], bool], texts: Sequence[str]) -> tuple[list[bool], list[float]]:
    """The answers, and how long each took in milliseconds."""
    answers, spent = [], []
    for text in texts:
        began = time.perf_counter()
        answers.append(call(text))
        spent.append((time.perf_counter() - began) * 1000)
    return answers, spent


def stopping(quick: bool) -> dict[str, Any]:
    """The table of shares stopped, by set and by filter, and the latencies."""
    policy, every = load_policy(), rows()
    texts = [row.text for row in every]
    rules_check = RulesCheck(Rules(), policy, Stage.PROMPT)
    reading = ReadabilityCheck(policy, Stage.PROMPT)
    toxicity = ToxicityCheck(load(), policy, Stage.PROMPT)
    moderation = build(ModerationConfig())
    answers, spent = {}, {}
    answers["rules"], spent["rules"] = timed(
        lambda t: not (rules_check.check(t).allowed and reading.check(t).allowed), texts
    )
    _, spent["classifier"] = timed(lambda t: not toxicity.check(t).allowed, texts)
    apart = unseen(every, *((2, 3000) if quick else (5, train.AUTHORED)))
    answers["classifier"] = [apart[text] for text in texts]
    pairs = zip(answers["rules"], answers["classifier"], strict=True)
    answers["both"] = [a or b for a, b in pairs]
    answers["shipped"], spent["shipped"] = timed(
        lambda t: not moderation.prompt(PromptRequest(t)).verdict.allowed, texts
    )
    for name, call in peers().items():
        picked = range(0, len(texts), 4 if quick and name == "better-profanity" else 1)
        some, spent[name] = timed(call, [texts[i] for i in picked])
        full: list[Any] = [None] * len(texts)
        for i, answer in zip(picked, some, strict=True):
            full[i] = answer
        answers[name] = full
    short = [i for i, row in enumerate(every) if row.picture]
    return {
        "stopped": _shares(every, answers),
        "latency_ms": {
            name: _latency(name, each, short, len(texts)) for name, each in spent.items()
        },
    }


def _shares(every: Sequence[Row], answers: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(every):
        side = "harmful" if row.harmful else "benign"
        names = [f"{row.group}, {side}"]
        if row.picture:
            names.append(f"POOLED picture prompts, {side}")
        for name in names:
            groups.setdefault(name, []).append(index)
    table = {}
    for name, members in sorted(groups.items()):
        line: dict[str, Any] = {"rows": len(members)}
        for filter_name, answer in answers.items():
            known = [answer[i] for i in members if answer[i] is not None]
            line[filter_name] = round(sum(known) / len(known), 4) if known else None
        table[name] = line
    return table


def _latency(
    name: str, spent: Sequence[float], short: Sequence[int], count: int
) -> dict[str, float]:
    """Over picture prompts only where every text was timed: chats are much longer."""
    chosen = [spent[i] for i in short] if len(spent) == count else list(spent)
    return {
        "p50": round(float(np.quantile(chosen, 0.5)), 3),
        "p99": round(float(np.quantile(chosen, 0.99)), 3),
    }


def evasion(quick: bool) -> dict[str, dict[str, float]]:
    """Of what is stopped plain, the share still stopped after each transform.

    `words` leaves out the check that holds what cannot be read, so what is left was understood.
    """
    policy = load_policy()
    words = [
        RulesCheck(Rules(), policy, Stage.PROMPT),
        ToxicityCheck(load(), policy, Stage.PROMPT),
    ]
    checks = [*words, ReadabilityCheck(policy, Stage.PROMPT)]
    harmful = [
        row.text
        for row in rows()
        if row.harmful and row.lang == "en" and len(row.text) < 400 and "spell" not in row.group
    ][:: 4 if quick else 1]
    plain = [t for t in harmful if not all(check.check(t).allowed for check in checks)]
    table = {}
    for name, transform in TRANSFORMS.items():
        changed = [transform(text) for text in plain]
        understood = [not all(check.check(t).allowed for check in words) for t in changed]
        held = [
            u or not checks[-1].check(t).allowed for u, t in zip(understood, changed, strict=True)
        ]
        table[name] = {
            "rows": len(plain),
            "stopped": round(sum(held) / len(held), 4),
            "words": round(sum(understood) / len(understood), 4),
        }
    return table


class Slow:
    """A check as slow as a remote one: an injected delay, then nothing found."""

    backend = "injected delay"
    version = "1"

    def __init__(self, stage: Stage, seconds: float) -> None:
        self._stage, self._seconds, self._policy = stage, seconds, load_policy()

    def check(self, asked: Any) -> Any:
        time.sleep(self._seconds)
        verdict = self._policy.judge([], self._stage, self.backend, self.version, self._seconds)
        return verdict if isinstance(asked, str) else [verdict] * len(asked)


def overlap(quick: bool) -> dict[str, float]:
    """Four pictures with a remote chain of 200 ms a prompt and 500 ms a picture, drawn by sleeping.

    `share` is what moderation adds to the drawing; shares are of pictures that take 15 s each.
    """
    draw_s = 3.0 if quick else 15.0
    layers = Layers(
        {stage: (RulesCheck(Rules(), load_policy(), stage),) for stage in TEXT_STAGES},
        {stage: (Slow(stage, 0.2),) for stage in TEXT_STAGES},
        {Stage.PICTURE: (Slow(Stage.PICTURE, 0.5),)},
        LocalPhotoCheck(),
        PictureChoice("injected delay", "benchmark"),
    )
    moderation = Moderation(layers, load_policy(), PhotoRules(), 20.0)
    picture = Image.new("RGB", (64, 64))
    request = PromptRequest("a smiling person", "manga", "manga style")

    began = time.perf_counter()
    pending = moderation.begin_prompt(request)
    judged = []
    for _ in range(4):
        time.sleep(draw_s)
        judged.append(moderation.begin_pictures([picture], Stage.PICTURE))
    drawn = time.perf_counter()
    assert pending.result().verdict.allowed
    assert all(each.result()[0].verdict.allowed for each in judged)
    ended = time.perf_counter()
    moderation.close()
    serial = 0.2 + 4 * 0.5
    added = ended - began - 4 * draw_s
    return {
        "overlapped_added_s": round(added, 3),
        "after_last_picture_s": round(ended - drawn, 3),
        "overlapped_share": round(added / 60.0, 5),
        "serial_added_s": serial,
        "serial_share": round(serial / 60.0, 5),
    }


def _print(title: str, table: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for line in table.values() for key in line))
    width = max(len(name) for name in table) + 2
    print(f"\n{title:{width}s}" + "".join(f"{column:>22s}" for column in columns))
    for name, line in table.items():
        cells = ["" if line.get(c) is None else f"{line[c]:g}" for c in columns]
        print(f"{name:{width}s}" + "".join(f"{cell:>22s}" for cell in cells))


def _ratios(stopped: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Ours over each peer: harmful picture prompts stopped."""
    line = stopped["POOLED picture prompts, harmful"]
    names = [n for n in ("better-profanity", "alt-profanity-check") if line.get(n)]
    return {f"stopped_{n.replace('-', '_')}_ratio": round(line["both"] / line[n], 2) for n in names}


def main() -> None:
    """Print the tables and, last, one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moderation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer folds and rows: three minutes")
    quick = parser.parse_args().quick
    figures = stopping(quick)
    _print("share stopped (classifier: by models that did not see the row)", figures["stopped"])
    _print("latency, ms a prompt", figures["latency_ms"])
    hidden = evasion(quick)
    _print("of what is stopped plain, after each transform", hidden)
    waiting = overlap(quick)
    _print("time added to four pictures", {"moderation": waiting})
    print(
        json.dumps(
            {
                **figures,
                "evasion": hidden,
                "overlap": waiting,
                **_ratios(figures["stopped"]),
                "quick": quick,
            }
        )
    )


if __name__ == "__main__":
    main()

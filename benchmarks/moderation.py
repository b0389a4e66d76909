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

from benchmarks import overlap
from benchmarks.evasion import TRANSFORMS
from moderation import corpus, train
from moderation.chain import PromptRequest, build
from moderation.corpus import HARMLESS, Example, calibration
from moderation.layers import ModerationConfig
from moderation.policy import load_policy
from moderation.rules import Rules
from moderation.texts import ReadabilityCheck, RulesCheck
from moderation.toxicity import ToxicityCheck, load
from moderation.verdict import Stage

ROWS = Path(__file__).with_name("data") / "moderation" / "prompts.jsonl"
ORDINARY = ROWS.with_name("ordinary.jsonl")
"""What people of an avatar studio write. Nothing is trained on it and no threshold chosen by it."""
PEERS = "pip install better-profanity==0.7.0 alt-profanity-check==1.9.1"


@dataclass(frozen=True)
class Row:
    """A text with what should happen to it; `group` is how the table names its set."""

    text: str
    group: str
    harmful: bool
    picture: bool
    lang: str


@dataclass(frozen=True)
class Spent:
    """Milliseconds a text. The processor's do not grow when the machine is busy with other work."""

    wall: list[float]
    cpu: list[float]


def rows() -> list[Row]:
    """The development rows, and the prompts that nothing is trained on."""
    found = []
    for line in ROWS.read_text("utf-8").splitlines():
        raw = json.loads(line)
        source, harmful = raw["source"], raw["label"] == "block"
        picture = source in ("adversarial-nibbler", "parti-prompts", "facechain-styles")
        detail = f" {raw['category']}" if source == "adversarial-nibbler" else ""
        group = f"{source}{detail}"
        found.append(Row(raw["text"], group, harmful, picture, raw["lang"]))
    for e in calibration():
        group = "captions and styles" if e.language == "en" else "German captions and styles"
        found.append(Row(e.text, group, False, True, e.language))
    found += [Row(e.text, f"written, never trained on, {e.kind}", True, False, "en")
              for e in corpus.unseen()]  # fmt: skip
    tongues = {"en": "ordinary", "de": "German ordinary"}
    found += [Row(e.text, f"{tongues[e.language]}, written {e.source} the training",
                  False, False, e.language) for e in ordinary()]  # fmt: skip
    return found


def ordinary() -> list[Example]:
    """Harmless prompts with the words of harmful ones, written before or after the training: who
    writes the first knows the corpus. `picture` is false, so no threshold is chosen by them.
    """
    rows = [json.loads(line) for line in ORDINARY.read_text("utf-8").splitlines()]
    return [Example(r["text"], HARMLESS, r["written"], False, r["lang"]) for r in rows]


def unseen(every: Sequence[Row], folds: int, authored: int) -> dict[str, bool]:
    """For each text: does a classifier that never saw its fold stop it."""
    apart = [*calibration(), *corpus.unseen(), *ordinary()]
    examples = [*train.gathered(ROWS, authored), *apart]
    scores = train.unseen_scores(examples, folds)
    place = train.folds(examples, folds)
    model = train.fit(examples[: -len(apart)])
    for index, example in enumerate(examples):
        if index >= len(examples) - len(apart):
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


def timed(call: Callable[[str], bool], texts: Sequence[str]) -> tuple[list[bool], Spent]:
    """The answers, and what each took: by the clock, and of the processor alone."""
    answers, wall, cpu = [], [], []
    for text in texts:
        began, worked = time.perf_counter(), time.process_time()
        answers.append(call(text))
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - worked) * 1000)
    return answers, Spent(wall, cpu)


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
    apart = unseen(every, *((2, 1000) if quick else (5, train.AUTHORED)))
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
        "latency_ms": {name: _latency(each, short, len(texts)) for name, each in spent.items()},
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


def _latency(spent: Spent, short: Sequence[int], count: int) -> dict[str, float]:
    """Over picture prompts only where every text was timed: chats are much longer."""
    table = {}
    for clock, each in (("", spent.wall), (" of CPU", spent.cpu)):
        chosen = [each[i] for i in short] if len(each) == count else each
        table[f"p50{clock}"] = round(float(np.quantile(chosen, 0.5)), 3)
        table[f"p99{clock}"] = round(float(np.quantile(chosen, 0.99)), 3)
    return table


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


def hidden_twice(quick: bool) -> dict[str, dict[str, float]]:
    """The same for every two transforms, one after the other, on prompts written here."""
    policy = load_policy()
    checks = [
        RulesCheck(Rules(), policy, Stage.PROMPT),
        ToxicityCheck(load(), policy, Stage.PROMPT),
        ReadabilityCheck(policy, Stage.PROMPT),
    ]

    def held(text: str) -> bool:
        return not all(check.check(text).allowed for check in checks)

    plain = [e.text for e in corpus.unseen() if held(e.text)][:: 10 if quick else 2]
    pairs = {
        f"{first}, then {then}": [held(TRANSFORMS[then](TRANSFORMS[first](t))) for t in plain]
        for first in TRANSFORMS
        for then in TRANSFORMS
        if first != then
    }
    shares = {name: sum(stopped) / len(stopped) for name, stopped in pairs.items()}
    worst = min(shares, key=lambda name: shares[name])
    every = {"pairs": len(shares), "rows": len(plain)}
    return {
        "all pairs": {**every, "stopped": round(float(np.mean(list(shares.values()))), 4)},
        f"worst: {worst}": {**every, "stopped": round(shares[worst], 4)},
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
    twice = hidden_twice(quick)
    _print("hidden in two ways at once", twice)
    waiting = overlap.measured(quick)
    print("\ntime added to four pictures by AWS (benchmarks/overlap.py)")
    for name, value in waiting.items():
        print(f"  {name:34s} {value:>10g}")
    print(
        json.dumps(
            {
                **figures,
                "evasion": hidden,
                "hidden_twice": twice,
                "overlap": waiting,
                **_ratios(figures["stopped"]),
                "quick": quick,
            }
        )
    )


if __name__ == "__main__":
    main()

"""Rules: forbidden terms, forbidden combinations and public figures' names, from data files.

Reads every TOML file in `moderation/rules` and in a host's own folder, and reads them again when
one changes. Matches whole words on the views of `canonical.py`. Knows no model and no policy.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moderation.canonical import Views, plain_view

SHIPPED = Path(__file__).with_name("rules")
_SPLIT = re.compile(r"[\s!-/:-@\[-`{-¿×÷‐-⁞₠-⃏⌀-⏿、-〿！-／：-＠［-｀｛-･।॥؟،؛]+")
_POSSESSIVE = re.compile(r"(?<=\w)['’](?=s\b)")
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_AGE = re.compile(
    r"\b(?:[1-9]|1[0-7])[\s-]*(?:years?|yrs?|yo|y/o|yr)(?:[\s-]*olds?)?\b(?!\s+(?:ago|later|experience))"
)
_MASKED = re.compile(r"(?<![^\W_])[a-z]+(?:[*#?][*#?a-z]*)[a-z](?![^\W_])")
_MASK = re.compile(r"[*#?]")
_MAX_WORDS = 6
_SHORTEST_PREFIX = 3
_LONG_ENOUGH_INSIDE = 4
_LONG_ENOUGH_JOINED = 8
"""A phrase of so many letters is found without its spaces, too: `taylorswift`."""
_RELOAD_EVERY_S = 1.0


class RulesError(ValueError):
    """A rules file cannot be used; the message names the file and the place."""


@dataclass(frozen=True)
class Match:
    """A term that was found: its category, and where it starts (a word's number)."""

    category: str
    start: int
    length: int


@dataclass(frozen=True)
class Terms:
    """Terms in a form that is fast to look up. Phrases are tuples of words of the plain view.

    `lengths` says, for a first word, how long the phrases are that begin with it; `starts`, for the
    first letters of a word, which prefixes it may have, the shortest first.
    """

    phrases: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(default_factory=dict)
    prefix_phrases: Mapping[tuple[str, ...], tuple[tuple[str, str], ...]] = field(
        default_factory=dict
    )
    unspaced: tuple[tuple[str, str], ...] = ()
    lengths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    starts: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def find(self, words: Sequence[str]) -> list[Match]:
        """All terms in a list of words, whatever their length; overlapping ones all count."""
        found = []
        for start, word in enumerate(words):
            for length in self.lengths.get(word, ()):
                key = tuple(words[start : start + length])
                category = self.phrases.get(key)
                if category is not None and len(key) == length:
                    found.append(Match(category, start, length))
                for prefix, label in self.prefix_phrases.get(key[:-1], ()):
                    if length > 1 and key[-1].startswith(prefix):
                        found.append(Match(label, start, length))
            for prefix, label in self.starts.get(word[:_SHORTEST_PREFIX], ()):
                if word.startswith(prefix):
                    found.append(Match(label, start, 1))
                    break
        return found

    def find_masked(self, text: str) -> set[str]:
        """The categories of the terms that a word with letters starred out may stand for."""
        found = set()
        for masked in _MASKED.findall(text):
            meant = re.compile(_MASK.sub("[a-z]", masked))
            found |= {
                label
                for words, label in self.phrases.items()
                if len(words) == 1 and meant.fullmatch(words[0])
            }
            found |= {label for prefix, label in self.prefixes.items() if meant.fullmatch(prefix)}
        return found

    def find_unspaced(self, text: str) -> list[Match]:
        """Terms of scripts that are written without spaces."""
        return [Match(label, 0, 1) for term, label in self.unspaced if term in text]


def words_of(text: str) -> list[str]:
    """The words of a plain view, without punctuation and symbols."""
    text = _APOSTROPHE.sub("", _POSSESSIVE.sub(" ", text))
    return [word for word in _SPLIT.split(text) if word]


def _compile(terms: Iterable[tuple[str, str]], where: str, *, with_marks: bool = False) -> Terms:
    """`with_marks`: phrases are found in the view that keeps its marks, too."""
    phrases: dict[tuple[str, ...], str] = {}
    prefixes: dict[str, str] = {}
    prefix_phrases: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    unspaced = []
    for term, label in terms:
        if not isinstance(term, str) or not term.strip(" *"):
            raise RulesError(f"{where}: {term!r} is not a term.")
        plain = plain_view(term)
        if _UNSPACED.search(plain):
            unspaced.append((plain, label))
            continue
        words = tuple(words_of(plain.rstrip("*")))
        if not words:
            continue
        if len(words) > _MAX_WORDS:
            raise RulesError(f"{where}: {term!r} has more than {_MAX_WORDS} words.")
        if not plain.endswith("*"):
            phrases.setdefault(words, label)
            if len(words) > 1 and len("".join(words)) >= _LONG_ENOUGH_JOINED:
                phrases.setdefault(("".join(words),), label)
            if with_marks:
                phrases.setdefault(tuple(words_of(term.casefold())), label)
        elif len(words) == 1:
            prefixes.setdefault(words[0], label)
        else:
            phrases.setdefault(words, label)
            prefix_phrases[words[:-1]].append((words[-1], label))
    frozen = {key: tuple(value) for key, value in prefix_phrases.items()}
    sizes: dict[str, set[int]] = defaultdict(set)
    for words in (*phrases, *((*words, "") for words in prefix_phrases)):
        sizes[words[0]].add(len(words))
    lengths = {word: tuple(sorted(size)) for word, size in sizes.items()}
    starts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for prefix in sorted(prefixes, key=len):
        if len(prefix) >= _SHORTEST_PREFIX:
            starts[prefix[:_SHORTEST_PREFIX]].append((prefix, prefixes[prefix]))
    by_start = {start: tuple(prefixes) for start, prefixes in starts.items()}
    return Terms(phrases, prefixes, frozen, tuple(unspaced), lengths, by_start)


@dataclass(frozen=True)
class Combination:
    """Words that are forbidden together: one of each group, at most `within` words apart."""

    label: str
    groups: tuple[Terms, ...]
    categories: frozenset[str]
    within: int

    def found(self, words: Sequence[str], matches: Sequence[Match], has_age: bool) -> bool:
        """Whether every part is there. `has_age` counts as a word of the first group."""
        places: list[list[int]] = []
        if self.categories:
            places.append([m.start for m in matches if m.category in self.categories])
            if not places[0]:
                return False
        for number, group in enumerate(self.groups):
            here = [m.start for m in group.find(words)]
            if number == 0 and has_age and self.label == "minors":
                here.append(-1)
            if not here:
                return False
            places.append(here)
        if self.within == 0:
            return True
        return any(
            all(any(abs(p - anchor) <= self.within for p in others) for others in places[1:])
            for anchor in places[0]
        )


@dataclass(frozen=True)
class RuleSet:
    """Everything the files say, with a version made of their contents."""

    version: str
    terms: Terms
    passes: Terms
    emoji: Mapping[str, str]
    combinations: tuple[Combination, ...]
    negative: Terms

    def judge(self, views: Views) -> frozenset[str]:
        """The labels that any view of a prompt deserves; none means that no rule speaks."""
        labels = set()
        for words, has_age, text in _readings(views):
            labels |= self._labels(words, has_age, text)
        for run in views.joined_runs:
            labels |= self._inside(run)
        labels |= self.terms.find_masked(views.plain)
        for symbols, label in self.emoji.items():
            if symbols in views.encoder:
                labels.add(label)
        return frozenset(labels)

    def judge_negative(self, views: Views) -> frozenset[str]:
        """The labels that a negative field deserves: asking for less clothing, age or censoring.

        Naming forbidden things there asks for less of them, so only slurs count beside that.
        """
        labels = set()
        for words, has_age, text in _readings(views):
            labels |= {m.category for m in self.negative.find(words)}
            labels |= self._labels(words, has_age, text) & {"hate", "minors"}
        for run in views.joined_runs:
            labels |= {
                "reversed_safety" for words in self.negative.phrases if "".join(words) in run
            }
        return frozenset(labels)

    def _labels(self, written: Sequence[str], has_age: bool, unspaced: str) -> set[str]:
        words = self._without_passes(written)
        matches = self.terms.find(words)
        labels = {m.category for m in matches}
        if unspaced:
            labels |= {m.category for m in self.terms.find_unspaced(unspaced)}
        for combination in self.combinations:
            if combination.label not in labels and combination.found(words, matches, has_age):
                labels.add(combination.label)
        return labels

    def _without_passes(self, words: Sequence[str]) -> list[str]:
        """The words with every pass phrase replaced by a gap that no term can bridge."""
        kept = list(words)
        for match in self.passes.find(words):
            kept[match.start : match.start + match.length] = [""] * match.length
        return kept

    def _inside(self, run: str) -> set[str]:
        """Terms anywhere inside letters that were written apart: word boundaries are lost there."""
        found = {
            label
            for words, label in self.terms.phrases.items()
            if len("".join(words)) >= _LONG_ENOUGH_INSIDE and "".join(words) in run
        }
        found |= {label for prefix, label in self.terms.prefixes.items() if prefix in run}
        return found


def _readings(views: Views) -> set[tuple[tuple[str, ...], bool, str]]:
    """The views as rules read them, each once: their words, whether an age below 18 is told, and
    the text where its script has no spaces."""
    return {
        (tuple(words_of(text)), bool(_AGE.search(text)), text if _UNSPACED.search(text) else "")
        for text in (views.plain, *views.variants)
    }


class Rules:
    """The rules of a folder, read again when a file in it changes. Safe to use from threads."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: a host's own files, added to the shipped ones. Raises RulesError."""
        self._folders = [SHIPPED, *([folder] if folder else [])]
        self._lock = threading.Lock()
        self._stamp: tuple[tuple[str, int, int], ...] = ()
        self._looked_at = 0.0
        self._set: RuleSet | None = None
        self.current()

    def current(self) -> RuleSet:
        """The rules as the files are now (looked at once a second at most). Raises RulesError."""
        with self._lock:
            if self._set is None or time.monotonic() - self._looked_at > _RELOAD_EVERY_S:
                stamp = self._stamps()
                if stamp != self._stamp or self._set is None:
                    self._set = None
                    self._set = load(self._files())
                    self._stamp = stamp
                self._looked_at = time.monotonic()
            return self._set

    def _files(self) -> list[Path]:
        missing = [folder for folder in self._folders if not folder.is_dir()]
        if missing:
            raise RulesError(f"The rules folder {missing[0]} does not exist.")
        return sorted(path for folder in self._folders for path in folder.glob("*.toml"))

    def _stamps(self) -> tuple[tuple[str, int, int], ...]:
        stats = [(path, path.stat()) for path in self._files()]
        return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def load(files: Sequence[Path]) -> RuleSet:
    """Read rules files. Raises RulesError naming the file that cannot be used."""
    digest = hashlib.sha256()
    terms: list[tuple[str, str]] = []
    passes: list[tuple[str, str]] = []
    negative: list[tuple[str, str]] = []
    emoji: dict[str, str] = {}
    combinations: list[Combination] = []
    for path in files:
        try:
            content = path.read_bytes()
            raw = tomllib.loads(content.decode("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RulesError(f"The rules file {path} cannot be read: {error}.") from error
        if not isinstance(raw.get("version"), str):
            raise RulesError(f"{path}: the key `version` is missing.")
        digest.update(content)
        for label, listed in _table(raw, "terms", path).items():
            terms += [(term, label) for term in _listed(listed, path)]
        passes += [(phrase, "pass") for phrase in _listed(raw.get("pass", []), path)]
        for label, listed in _table(raw, "emoji", path).items():
            emoji.update(dict.fromkeys(_listed(listed, path), label))
        field_rule = _table(raw, "negative_field", path)
        if field_rule:
            label = str(field_rule.get("label", "reversed_safety"))
            negative += [(term, label) for term in _listed(field_rule.get("words", []), path)]
        combinations += _combinations(raw, path)
    return RuleSet(
        digest.hexdigest()[:12],
        _compile(terms, "terms"),
        _compile(passes, "pass", with_marks=True),
        emoji,
        tuple(combinations),
        _compile(negative, "negative_field"),
    )


def _table(raw: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    table = raw.get(key, {})
    if not isinstance(table, dict):
        raise RulesError(f"{path}: `{key}` must be a table.")
    return table


def _listed(value: Any, path: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(term, str) for term in value):
        raise RulesError(f"{path}: expected a list of terms, found {value!r:.60}.")
    return value


def _combinations(raw: Mapping[str, Any], path: Path) -> list[Combination]:
    groups = {
        name: _compile([(term, name) for term in _listed(listed, path)], str(path))
        for name, listed in _table(raw, "groups", path).items()
    }
    built = []
    for entry in raw.get("combination", []):
        names = [*entry.get("groups", [])]
        stray = [name for name in names if name not in groups]
        if stray:
            raise RulesError(f"{path}: the group {stray[0]!r} is not defined.")
        built.append(
            Combination(
                str(entry["label"]),
                tuple(groups[name] for name in names),
                frozenset(entry.get("categories", [])),
                int(entry.get("within", 0)),
            )
        )
    return built

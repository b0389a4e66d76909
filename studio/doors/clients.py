"""Doors for programs: a drawing that is asked for twice is drawn once, and a text judged alone.

The run's id follows from the user and an idempotency key, so the record's own uniqueness is what
lets only one of many simultaneous requests begin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from moderation.chain import PromptRequest
from moderation.decisions import keyed_hash
from moderation.verdict import Decision, Verdict
from studio.actions import Quality, Shape
from studio.database import Taken
from studio.doors.runs import Runs
from studio.errors import NotAllowed, UserError
from studio.records import PersonalModel, Run, Use, User, new_id, now

PASSING = frozenset({"unchecked", "backend", "unknown", "engine"})
"""Codes of failures that may be over by the next try: the same key may then draw again."""

START_AGAIN = timedelta(seconds=30)
"""A run that still waits after this, and is asked for again, may never have reached a worker."""


class Clients(Runs):
    """For clients that repeat a request when they do not know what became of it."""

    def judge_text(self, user_id: str, text: str) -> Verdict:
        """What every check says of a text; nothing is drawn.

        Refused ones count towards the cool-down, so that nobody learns the rules by asking.
        """
        if self.catalog.get(User, user_id) is None:
            raise NotAllowed("this user")
        self._check_cooldown(user_id)
        verdict = self.moderation.prompt(PromptRequest(text)).verdict
        if verdict.decision in (Decision.BLOCK, Decision.REVIEW):
            self.catalog.add(Use(new_id(), user_id, "blocked-prompt", 1, now()))
        return verdict

    def generate_once(
        self,
        user_id: str,
        model_id: str,
        *,
        key: str,
        style_ids: Sequence[str],
        text: str = "",
        count: int = 1,
        quality: Quality = "balanced",
        shape: Shape = "square",
        seed: int | None = None,
    ) -> Run:
        """As `generate`, but the same key and wishes give the same run, however often they come.

        A refused text ends in a failed run instead of an error, so that the answer stays the same.
        Raises `UserError` with the code `key-reused` for other wishes under a used key.
        """
        model = self._mine(PersonalModel, user_id, model_id)
        asked = {
            "model_id": model_id,
            "style_ids": list(dict.fromkeys(style_ids)),
            "text": text,
            "count": count,
            "quality": quality,
            "shape": shape,
        } | ({} if seed is None else {"seed": seed})
        run_id, there = self._answered(user_id, key, asked)
        if there is not None:
            return there
        try:
            _, wishes = self._wishes(
                user_id, model_id, style_ids=style_ids, text=text, count=count, quality=quality,
                shape=shape, seed=seed, strength=1.0,
            )  # fmt: skip
            return self._begin(
                "generate", user_id, model.person_id, wishes.total, wishes.asked, run_id
            )
        except UserError as fault:
            if fault.code != "refused":
                raise
            return self._refused(model, run_id, key, asked, fault)
        except Taken:  # the same request came twice at once
            return self._answered(user_id, key, asked)[1] or self.catalog.get_run(run_id)

    def _answered(self, user_id: str, key: str, asked: dict[str, Any]) -> tuple[str, Run | None]:
        """The id of the run that this key stands for now, and the run where there is one."""
        attempt = 0
        while True:
            run_id = keyed_id(user_id, key, attempt)
            run = self.catalog.get(Run, run_id)
            if run is None:
                return run_id, None
            if not _same(run, key, asked):
                raise UserError(
                    "This idempotency key was used for another request.",
                    "Choose a new key for every new request.",
                    code="key-reused",
                )
            if run.state == "waiting" and now() - run.created_at > START_AGAIN:
                self.workflows.start_generate(run.id, user_id=user_id)
            if run.state != "failed" or run.detail.get("code") not in PASSING:
                return run_id, run
            attempt += 1

    def _refused(
        self, model: PersonalModel, run_id: str, key: str, asked: dict[str, Any], fault: UserError
    ) -> Run:
        """A run that ended before it began. The refused text itself is not kept, nor a hash that
        could be guessed: the client's key, which is kept nowhere, is in it."""
        moment = now()
        detail = {"code": fault.code, "text_hash": _hash(key, asked["text"])}
        run = Run(
            run_id, model.user_id, model.person_id, "generate", "failed", 0, 0, None, str(fault),
            {"seed": 0, "strength": 1.0} | asked | {"text": ""}, detail, moment, moment,
        )  # fmt: skip
        try:
            self.catalog.add(run)
        except Taken:
            return self.catalog.get_run(run_id)
        return run


def keyed_id(user_id: str, key: str, attempt: int) -> str:
    """The id of a key's n-th run; as unguessable as the user's id is."""
    return hashlib.sha256(f"{user_id}\0{attempt}\0{key}".encode()).hexdigest()[:32]


def _same(run: Run, key: str, asked: dict[str, Any]) -> bool:
    before, text = run.request, asked["text"]
    if "text_hash" in run.detail:
        if run.detail["text_hash"] != _hash(key, text):
            return False
    elif before.get("text") != text:
        return False
    return all(before.get(name) == value for name, value in asked.items() if name != "text")


def _hash(key: str, text: str) -> str:
    return keyed_hash(text.encode(), f"idempotency {key}".encode())

"""The one handler: judges a text, draws a prompt, and says what became of it.

Knows a user's id and nothing of how it was found; both homes call it. The text check is part of
every drawing and of its flow, so no call goes around it.
"""

from __future__ import annotations

import base64
import secrets
import time
from typing import Any

import anyio
import anyio.to_thread

from moderation.verdict import Decision, Verdict
from studio.errors import NotAllowed
from studio.records import Avatar, PersonalModel, Run, now
from studio.rest.problems import Refused
from studio.rest.shapes import (
    AvatarWish,
    Drawing,
    Picture,
    Refusal,
    Seconds,
    StoredFile,
    TextVerdict,
    VerdictTold,
    Warned,
)
from studio.studio import Studio

LOOK_S = 0.2
INLINE_BYTES = 3_500_000
"""Most picture bytes in one answer: as base64 they must fit into the 6 MB of a Lambda answer."""

BLURRED = Warned(
    code="picture_blurred",
    message="This picture may not suit everyone, so it is blurred.",
    fix="Try another seed or style.",
)
_LINKS_S = 600


class Pictures:
    """Draws and judges for users. `wait_s` is how long one request waits for its drawing."""

    def __init__(self, studio: Studio, wait_s: float) -> None:
        self._studio = studio
        self._wait_s = wait_s

    async def draw(self, user_id: str, wish: AvatarWish, key: str, wait_s: float) -> Drawing:
        """Begin to draw, or find the run that this key began, and wait a while for its end.

        Raises `UserError`, `NotAllowed` or `Refused` for what is not drawn.
        """
        run = await anyio.to_thread.run_sync(self._begin, user_id, wish, key)
        until = time.monotonic() + min(wait_s, self._wait_s)
        while not run.over and time.monotonic() < until:
            await anyio.sleep(LOOK_S)
            run = await anyio.to_thread.run_sync(self._studio.run, user_id, run.id)
        return await anyio.to_thread.run_sync(self._told, run, wish.inline)

    async def look(self, user_id: str, run_id: str) -> Drawing:
        """A drawing as it is now. Raises `NotAllowed` for anybody else's, as for none."""
        return await anyio.to_thread.run_sync(self._look, user_id, run_id)

    async def check(self, user_id: str, text: str) -> TextVerdict:
        """What every check says of a text. Refused ones count towards the user's cool-down."""
        began = time.monotonic()
        verdict = await anyio.to_thread.run_sync(self._studio.judge_text, user_id, text)
        seconds = time.monotonic() - began
        if verdict.decision is Decision.UNAVAILABLE:
            raise Refused("unchecked", "We could not check this text.", _warned(verdict))
        allowed = verdict.allowed
        return TextVerdict(
            decision=verdict.decision,
            toxic=not allowed,
            message="Safe to proceed." if allowed else "This text would not be drawn.",
            warnings=_warned(verdict),
            seconds=Seconds(text=round(seconds, 4), total=round(seconds, 4)),
        )

    async def classify(self, user_id: str, text: str, key: str) -> StoredFile | Drawing:
        """One picture for a text by the user's newest model: its name, or a drawing on its way."""
        drawing = await self.draw(user_id, AvatarWish(prompt=text), key, self._wait_s)
        if not drawing.pictures:
            return drawing
        (picture,) = drawing.pictures
        return StoredFile(
            file=picture.name,
            key=picture.key,
            url=picture.url,
            blurred=picture.blurred,
            verdict=picture.verdict,
            warnings=picture.warnings,
            seconds=drawing.seconds,
        )

    def content(self, user_id: str, name: str) -> bytes | str:
        """A stored picture of this user: its bytes, or a link to it that soon ends."""
        avatar = self._avatar(user_id, name)
        link = self._studio.storage.url(avatar.key, expires_s=_LINKS_S)
        return link or self._bytes(avatar)

    # inside

    def _begin(self, user_id: str, wish: AvatarWish, key: str) -> Run:
        model = self._model(user_id, wish.model)
        style = wish.style or self._first_style(model)
        return self._studio.generate_once(
            user_id,
            model.id,
            key=key or secrets.token_urlsafe(16),
            style_ids=[style],
            text=wish.prompt,
            count=wish.count,
            quality=wish.quality,
            shape=wish.shape,
            seed=wish.seed,
        )

    def _model(self, user_id: str, wanted: str) -> PersonalModel:
        if wanted:
            return self._studio.model(user_id, wanted)
        found = self._studio.models(user_id)
        if not found:
            raise Refused("no-model", "You have no personal model yet. Train one in the studio.")
        return found[0]

    def _first_style(self, model: PersonalModel) -> str:
        fitting = self._studio.styles(model.family)
        if not fitting:
            raise Refused("no-model", f"There is no style for the model's base {model.base_id}.")
        return fitting[0].id

    def _look(self, user_id: str, run_id: str) -> Drawing:
        run = self._studio.run(user_id, run_id)
        if run.kind != "generate":
            raise NotAllowed("this drawing")
        return self._told(run, inline=False)

    def _told(self, run: Run, inline: bool) -> Drawing:
        """The run as its owner may know it. Raises `Refused` for one that ended badly."""
        detail = run.detail
        refused = [Refusal(**one) for one in detail.get("refused", [])]
        if run.state in ("failed", "cancelled"):
            code = str(detail.get("code", run.state if run.state == "cancelled" else "unknown"))
            code = "withheld" if code == "refused" and refused else code
            warning = Warned(code=code, message=run.message, fix="")
            raise Refused(code, run.message, [warning] if code in ("refused", "withheld") else [])
        avatars = self._studio.avatars(run.user_id, run_id=run.id) if run.state == "done" else []
        by_id = {avatar.id: avatar for avatar in avatars}
        shown = [by_id[i] for i in detail.get("avatar_ids", []) if i in by_id]
        pictures = self._pictures(shown, inline)
        warnings = [warning for picture in pictures for warning in picture.warnings]
        warnings += [Warned(code="withheld", message=one.reason, fix="") for one in refused]
        return Drawing(
            id=run.id,
            url=f"/v1/avatars/{run.id}",
            state=run.state,
            message=run.message,
            verdict=VerdictTold(decision=_worst(pictures)),
            pictures=pictures,
            refused=refused,
            warnings=warnings,
            seconds=_seconds(run),
        )

    def _pictures(self, avatars: list[Avatar], inline: bool) -> list[Picture]:
        pictures, room = [], INLINE_BYTES
        for avatar in avatars:
            content = self._bytes(avatar) if inline else b""
            room -= len(content)
            if room < 0:
                raise Refused(
                    "invalid", "These pictures are too large for one answer: fetch them by url."
                )
            pictures.append(_picture(avatar, content))
        return pictures

    def _avatar(self, user_id: str, name: str) -> Avatar:
        found = [a for a in self._studio.avatars(user_id) if a.id == name]
        if not found:
            raise NotAllowed("this picture")
        return found[0]

    def _bytes(self, avatar: Avatar) -> bytes:
        try:
            return self._studio.storage.get(avatar.key)
        except KeyError:
            raise NotAllowed("this picture") from None


def _picture(avatar: Avatar, content: bytes) -> Picture:
    blurred = avatar.verdict.get("action") == "blur"
    return Picture(
        name=avatar.id,
        key=avatar.key,
        url=f"/v1/pictures/{avatar.id}",
        width=avatar.width,
        height=avatar.height,
        style=avatar.style_id,
        seed=avatar.seed,
        attempts=avatar.attempts,
        blurred=blurred,
        verdict=VerdictTold(decision=Decision(avatar.verdict["decision"])),
        warnings=[BLURRED] if blurred else [],
        content=base64.b64encode(content).decode() if content else None,
    )


def _worst(pictures: list[Picture]) -> Decision:
    """Of what is shown: only `allow` and, blurred, `review` ever are."""
    if not pictures:
        return Decision.UNAVAILABLE
    blurred = [picture for picture in pictures if picture.verdict.decision is not Decision.ALLOW]
    return blurred[0].verdict.decision if blurred else Decision.ALLOW


def _seconds(run: Run) -> Seconds:
    measured: dict[str, Any] = run.detail.get("seconds", {})
    end = run.updated_at if run.over else now()
    total = max(0.0, (end - run.created_at).total_seconds())
    return Seconds(**measured, total=round(total, 4))


def _warned(verdict: Verdict) -> list[Warned]:
    return [Warned(code=r.code, message=r.message, fix=r.fix) for r in verdict.reasons]

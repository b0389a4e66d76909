"""Everyone trained here: their models and versions, what they take up, and how all of it goes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import gradio as gr

from studio.actions import Receipt
from studio.errors import NotAllowed, UserError
from studio.records import Person, PersonalModel, Token
from studio.ui.cards import address, day
from studio.ui.refusals import appeal_row
from studio.ui.shell import Shell, Updates, Visit
from studio.ui.train import likeness_words
from studio.ui.welcome import resume


class People:
    """People, models, erasure and export."""

    name = "people"

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.studio = shell.studio
        with gr.Column(visible=False, elem_id="page-people", elem_classes="page") as self.column:
            self.receipt = shell.html("receipt")
            self.list = shell.html("people-list")
        shell.add(self.receipt, self.list)

    def wire(self) -> None:
        self.shell.dispatch(
            self.list,
            {
                "person": lambda visit: resume(self.shell, visit, visit.id),
                "rename": self.rename,
                "rename_model": self.rename_model,
                "use_model": self.use_model,
                "retrain": self.retrain,
                "delete_model": self.delete_model,
                "delete_photos": self.delete_photos,
                "erase": self.erase,
                "erase_me": self.erase_me,
                "create_token": self.create_token,
                "revoke_token": self.revoke_token,
            },
        )

    def show(self, visit: Visit) -> Updates:
        user, words = visit.user.id, visit.words
        everyone = self.studio.people(user)
        used = sum(self.studio.storage_used(user, one.id) for one in everyone)
        markup = self.shell.render(
            "people", visit, people=[self._card(visit, one) for one in everyone],
            export="files/export.zip", used=words.size(used),
            appeals=[appeal_row(one, words) for one in self.studio.appeals(user)],
            tokens=[_token(one, visit) for one in self.studio.tokens(user)],
        )  # fmt: skip
        return {self.receipt: "", self.list: markup}

    def live(self, visit: Visit) -> Updates:
        return {}

    def rename(self, visit: Visit) -> Updates:
        person = self.studio.rename_person(visit.user.id, visit.id, str(visit.said.get("name", "")))
        said = visit.words("people_renamed", name=person.name)
        return self.shell.open(visit, "people") | self.shell.say(visit, "done", said)

    def rename_model(self, visit: Visit) -> Updates:
        given = str(visit.said.get("name", ""))
        model = self.studio.rename_model(visit.user.id, visit.id, given)
        said = visit.words("people_renamed", name=model.name)
        return self.shell.open(visit, "people") | self.shell.say(visit, "done", said)

    def use_model(self, visit: Visit) -> Updates:
        model = self.studio.model(visit.user.id, visit.id)
        return self.shell.open(visit, "create", person=model.person_id, run="")

    def retrain(self, visit: Visit) -> Updates:
        return self.shell.open(visit, "photos", person=visit.id, run="")

    def delete_model(self, visit: Visit) -> Updates:
        return self._gone(visit, self.studio.delete_model(visit.user.id, visit.id))

    def delete_photos(self, visit: Visit) -> Updates:
        return self._gone(visit, self.studio.delete_photos(visit.user.id, visit.id))

    def erase(self, visit: Visit) -> Updates:
        person = next(
            (one for one in self.studio.people(visit.user.id) if one.id == visit.id), None
        )
        if person is None:
            raise NotAllowed("this person")
        self._typed(visit, person.name)
        return self._gone(visit, self.studio.erase_person(visit.user.id, person.id))

    def erase_me(self, visit: Visit) -> Updates:
        self._typed(visit, visit.words("people_erase_word"))
        return self._gone(visit, self.studio.erase_user(visit.user.id))

    def create_token(self, visit: Visit) -> Updates:
        """Make a token and show it this once."""
        given = str(visit.said.get("days", self.shell.settings.token_days)).strip()
        days = int(given) if given.isascii() and given.isdigit() and len(given) < 6 else 0
        name = str(visit.said.get("name", ""))
        made, told = self.studio.make_token(visit.user.id, name, days)
        shown = self.shell.render("token", visit, token=made, told=told)
        return self.shell.open(visit, "people") | {self.receipt: shown}

    def revoke_token(self, visit: Visit) -> Updates:
        gone = self.studio.revoke_token(visit.user.id, visit.id)
        said = visit.words("tokens_revoked", name=gone.name)
        return self.shell.open(visit, "people") | self.shell.say(visit, "done", said)

    def _typed(self, visit: Visit, word: str) -> None:
        if str(visit.said.get("typed", "")).strip().casefold() != word.casefold():
            raise UserError(visit.words("people_typed_wrong", word=word))

    def _gone(self, visit: Visit, receipt: Receipt) -> Updates:
        # The user may be gone too: whoever asks next is a new one.
        updates = self.shell.open(self.shell.again(visit), "people", person="", run="")
        return updates | {self.receipt: self.shell.render("receipt", visit, receipt=receipt)}

    def _card(self, visit: Visit, person: Person) -> dict[str, Any]:
        user, words = visit.user.id, visit.words
        photos = self.studio.photos(user, self.studio.photo_set(user, person.id).id)
        shown = next((photo for photo in photos if photo.accepted and photo.preview_key), None)
        models = self.studio.models(user, person_id=person.id)
        return {
            "id": person.id,
            "name": person.name,
            "day": day(person.created_at, words),
            "picture": address("photo-preview", shown.id) if shown else "",
            "photos": len(photos),
            "avatars": len(self.studio.avatars(user, person_id=person.id)),
            "used": words.size(self.studio.storage_used(user, person.id)),
            "models": [_model(model, visit) for model in sorted(models, key=lambda m: -m.version)],
        }


def _token(token: Token, visit: Visit) -> dict[str, Any]:
    used = datetime.fromisoformat(token.used_on) if token.used_on else None
    return {
        "id": token.id,
        "name": token.name,
        "made": day(token.created_at, visit.words),
        "until": day(token.expires_at, visit.words),
        "used": day(used, visit.words) if used else "",
        "expired": token.expired,
    }


def _model(model: PersonalModel, visit: Visit) -> dict[str, Any]:
    words, likeness = visit.words, model.report.get("likeness")
    return {
        "id": model.id,
        "name": model.name,
        "version": model.version,
        "base": model.base_id,
        "steps": model.steps,
        "time": words.duration(model.seconds),
        "size": words.size(model.adapter_bytes),
        "day": day(model.created_at, words),
        "likeness": likeness_words(likeness, words) if isinstance(likeness, str) else "",
    }

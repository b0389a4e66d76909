"""Users, the people they make avatars of, and consent."""

from __future__ import annotations

from studio.database import Taken
from studio.doors.owned import Owned, checked_name
from studio.errors import NotAllowed, UserError
from studio.records import Consent, Person, Photo, PhotoSet, User, new_id, now

CONSENT_VERSION = "2026-11"
"""Of the text people agree to; a new text gets a new version and is asked for again."""


class People(Owned):
    """Doors about people."""

    def user(self, name: str) -> User:
        """The user with this sign-in name; made at the first visit."""
        name = checked_name(name, "user name")
        found = self.catalog.find(User, name=name)
        if found:
            return found[0]
        user = User(new_id(), name, now())
        try:
            self.catalog.add(user)
        except Taken:
            # Somebody made it between our look and our write.
            user = self.catalog.find(User, name=name)[0]
        return user

    def people(self, user_id: str) -> list[Person]:
        return self.catalog.find(Person, user_id=user_id)

    def add_person(self, user_id: str, name: str) -> Person:
        if self.catalog.get(User, user_id) is None:
            raise NotAllowed("this user")
        person = Person(new_id(), user_id, checked_name(name), now())
        try:
            self.catalog.add(person)
        except Taken:
            raise UserError(
                f"You already have a person called “{person.name}”.", "Choose another name."
            ) from None
        return person

    def rename_person(self, user_id: str, person_id: str, name: str) -> Person:
        self._mine(Person, user_id, person_id)
        try:
            renamed = self.catalog.change(Person, person_id, name=checked_name(name))
        except Taken:
            raise UserError(
                f"You already have a person called “{checked_name(name)}”.", "Choose another name."
            ) from None
        if renamed is None:
            raise NotAllowed("this person")
        return renamed

    def consent(self, user_id: str, person_id: str) -> Consent:
        """Record consent for the photos that the person's current set holds now."""
        self._mine(Person, user_id, person_id)
        sets = self.catalog.find(PhotoSet, person_id=person_id, newest_first=True, limit=1)
        photos = self.catalog.find(Photo, set_id=sets[0].id) if sets else []
        hashes = tuple(sorted({photo.sha256 for photo in photos if photo.key}))
        consent = Consent(new_id(), user_id, person_id, CONSENT_VERSION, hashes, now())
        self.catalog.add(consent)
        return consent

    def _consented(self, person_id: str) -> frozenset[str]:
        """Hashes of all photos of the person that consent to the current text covers."""
        given = self.catalog.find(Consent, person_id=person_id, text_version=CONSENT_VERSION)
        return frozenset(sha256 for consent in given for sha256 in consent.photo_sha256)

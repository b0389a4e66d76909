"""Personal models: found by name or id, renamed, exported, deleted."""

from __future__ import annotations

from pathlib import Path

from diffusion.bases import Base
from studio.actions import BaseChoice, Receipt
from studio.doors.owned import checked_name
from studio.doors.runs import Runs
from studio.errors import BackendError, NotAllowed, StudioError, UserError
from studio.records import Person, PersonalModel, Run


class Models(Runs):
    """Doors about personal models."""

    def models(self, user_id: str, *, person_id: str | None = None) -> list[PersonalModel]:
        """The user's models, or one person's, newest first."""
        if person_id is not None:
            self._mine(Person, user_id, person_id)
            return self.catalog.find(
                PersonalModel, newest_first=True, user_id=user_id, person_id=person_id
            )
        return self.catalog.find(PersonalModel, newest_first=True, user_id=user_id)

    def model(self, user_id: str, name_or_id: str) -> PersonalModel:
        """The model with this id, or the newest of this name. Raises `NotAllowed`."""
        found = self.catalog.get(PersonalModel, name_or_id)
        if found is not None and found.user_id == user_id:
            return found
        named = self.catalog.find(
            PersonalModel, newest_first=True, limit=1, user_id=user_id, name=name_or_id
        )
        if not named:
            raise NotAllowed("this model")
        return named[0]

    def base_choices(self) -> list[BaseChoice]:
        """Every known base with why it is or is not a choice here; the default one first."""
        default: Base | None = None
        try:
            default, reason = self._base()
        except StudioError as fault:
            reason = str(fault)
        found = [self._choice(base, default, reason) for base in self.bases.list()]
        return sorted(found, key=lambda one: (not one.default, not one.usable))

    def _choice(self, base: Base, default: Base | None, reason: str) -> BaseChoice:
        here = self.bases.available(base.id)
        is_default = default is not None and base.id == default.id
        starter = base.family == "starter"
        fits = starter or base.memory_gb <= self.memory_gb
        if is_default:
            why = f"{reason[:1].upper()}{reason[1:]}."
        elif self.restricted and not starter:
            why = "Locked here: the host can add a picture check (AVATAR_MODERATION)."
        elif not fits and self.memory_gb <= 0:
            why = f"Needs a GPU with about {base.memory_gb:g} GB; this machine has none."
        elif not fits:
            why = (
                f"Needs about {base.memory_gb:g} GB of GPU memory; this machine has "
                f"{self.memory_gb:.0f} GB."
            )
        elif not here:
            why = f"Not on this machine. The host can fetch it: avatar-studio bases fetch {base.id}"
        else:
            why = "Here, and this machine can train on it."
        usable = is_default or (here and fits and (starter or not self.restricted))
        return BaseChoice(base.id, base.name, base.family, is_default, usable, why)

    def rename_model(self, user_id: str, model_id: str, name: str) -> PersonalModel:
        self._mine(PersonalModel, user_id, model_id)
        changed = self.catalog.change(PersonalModel, model_id, name=checked_name(name))
        if changed is None:
            raise NotAllowed("this model")
        return changed

    def delete_model(self, user_id: str, model_id: str) -> Receipt:
        """The model goes for good; the avatars it drew stay. Runs that draw with it are stopped."""
        model = self._mine(PersonalModel, user_id, model_id)
        users = [
            run
            for run in self.catalog.find(Run, user_id=user_id, person_id=model.person_id)
            if not run.over and run.request.get("model_id") == model.id
        ]
        for run in users:
            self.workflows.cancel(run.id)
        files = self._erase(user_id, {PersonalModel: [model.id]}, [model.key])
        return Receipt(photos=0, models=1, avatars=0, runs=len(users), files=files)

    def export_model(self, user_id: str, model_id: str, folder: Path) -> list[Path]:
        """Copy the model's files (weights and model card) into `folder`; what was written.

        Raises `UserError` when the folder cannot be written or holds a file of the same name.
        """
        model = self._mine(PersonalModel, user_id, model_id)
        written = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for key in self.storage.list(model.key):
                target = folder / key.removeprefix(f"{model.key}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as stream:
                    stream.write(self.storage.get(key))
                written.append(target)
        except FileExistsError as fault:
            raise UserError(
                f"{fault.filename} is there already.", "Choose an empty folder."
            ) from fault
        except OSError as fault:
            raise UserError(
                f"{folder} cannot be written: {fault.strerror}.", "Choose another folder."
            ) from fault
        if not written:
            raise BackendError(
                f"The files of the model {model.id} are gone from the storage. Restore a backup, "
                "or delete the model and train it again."
            )
        return written

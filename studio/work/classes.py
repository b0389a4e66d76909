"""Class pictures of a base: drawn once in a child process, judged, and shared by everybody.

Learning looks at them so that the base does not forget what other people look like. Nobody sees
them, and still only judged ones are learned from.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from diffusion.bases import Base
from moderation.chain import Moderation
from moderation.policy import Action
from moderation.verdict import Stage
from studio.errors import BackendError
from studio.settings import Settings, child_environment
from studio.work import children
from studio.work.devices import FileLock, GaveUp
from training.progress import write_atomically
from training.recipe import default
from training.request import Quality

# As `training.prior` names them; it is not imported because torch comes with it.
CAPTIONS, APPROVED, RECORD = "captions.json", "approved.json", "prior.json"

JUDGED_AT_ONCE = 8
POLL_S = 0.2
_WORDS = "Some pictures of other people are drawn first, once for this base model."

Tell = Callable[[str, int, int], None]  # sentence, done, in all
Stop = Callable[[], bool]


class ClassPictures:
    """The class sets under AVATAR_HOME. Several processes may ask for the same one."""

    def __init__(self, settings: Settings, moderation: Moderation, device: str) -> None:
        self._settings = settings
        self._moderation = moderation
        self._device = device
        self._folder = settings.home / "classes"

    def ready(
        self, base: Base, sha256: str, quality: Quality, noun: str, *, tell: Tell, stop: Stop
    ) -> Path:
        """The folder of the base's judged class pictures, drawn now if it is not there.

        Raises `GaveUp` when `stop` becomes true, `BackendError` when they cannot be drawn or
        none of them passed the checks.
        """
        lock = FileLock(self._folder / f"{base.id}.lock")
        try:
            lock.wait(stop)
            note = self._note(base, sha256, quality, noun)
            folder = self._find(note)
            if folder is None:
                folder = self._draw(base, quality, noun, tell, stop)
                write_atomically(note, folder.name.encode())
            self._judge(folder, tell, stop)
        finally:
            lock.release()
        return folder

    def _note(self, base: Base, sha256: str, quality: Quality, noun: str) -> Path:
        """The file that names the folder of this very base, recipe and word, once it is drawn.

        Known without asking the child: importing torch would take seconds for every worker.
        """
        recipe = default(base.family, quality).model_dump_json()
        mark = hashlib.sha256(f"{sha256} {noun} {recipe}".encode()).hexdigest()[:20]
        return self._folder / base.id / f"{mark}.folder"

    def _find(self, note: Path) -> Path | None:
        """The drawn set that a note names, if it is still whole."""
        if not note.is_file():
            return None
        folder = note.with_name(note.read_text("utf-8").strip())
        return folder if (folder / RECORD).is_file() else None

    def _draw(self, base: Base, quality: Quality, noun: str, tell: Tell, stop: Stop) -> Path:
        out = self._folder / base.id
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = self._folder / f"{base.id}.log"
        command = [sys.executable, "-m", "training.prior", "--base-folder", str(base.folder)]
        command += ["--family", base.family, "--quality", quality, "--noun", noun]
        command += ["--out", str(out), "--device", self._device]
        tell(_WORDS, 0, 0)
        with log.open("w", encoding="utf-8") as errors:
            child = children.spawn(
                command,
                environment=child_environment(self._settings),
                stdout=subprocess.PIPE,
                stderr=errors.fileno(),
            )
        try:
            while child.poll() is None:
                if stop():
                    raise GaveUp
                done, total = _progress(log)
                tell(_WORDS, done, total)
                try:
                    child.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
            answer = child.stdout.read() if child.stdout is not None else ""
        finally:
            children.stop(child, patience_s=2.0)
            if child.stdout is not None:
                child.stdout.close()
        if child.returncode != 0 or not answer.strip():
            lines = log.read_text("utf-8", "replace").strip().splitlines()
            why = lines[-1] if lines else f"it ended with code {child.returncode}"
            raise BackendError(f"The class pictures of {base.name} could not be drawn: {why}")
        return Path(answer.strip().splitlines()[-1])

    def _judge(self, folder: Path, tell: Tell, stop: Stop) -> None:
        """Write the list of the pictures that passed; the trainer uses no others."""
        if (folder / APPROVED).is_file():
            return
        names = sorted(json.loads((folder / CAPTIONS).read_text("utf-8")))
        approved: list[str] = []
        for start in range(0, len(names), JUDGED_AT_ONCE):
            if stop():
                raise GaveUp
            tell("The pictures of other people are checked.", start, len(names))
            some = names[start : start + JUDGED_AT_ONCE]
            judged = self._moderation.pictures(
                [_open(folder / name) for name in some], Stage.CLASS_PICTURE
            )
            approved += [
                name for name, one in zip(some, judged, strict=True) if one.action is Action.SHOW
            ]
        if not approved:
            raise BackendError(
                f"None of the {len(names)} class pictures in {folder} passed the picture check, or "
                "it could not be reached. See `avatar-studio doctor`, then try again."
            )
        write_atomically(folder / APPROVED, json.dumps(approved).encode())


def _progress(log: Path) -> tuple[int, int]:
    """How many of how many pictures are drawn, from the child's last line of that form."""
    for line in reversed(log.read_text("utf-8", "replace").splitlines()):
        words = line.split()
        if len(words) == 3 and words[1] == "of" and words[0].isdigit() and words[2].isdigit():
            return int(words[0]), int(words[2])
    return 0, 0


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")

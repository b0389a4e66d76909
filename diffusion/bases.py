"""Which base models there are and where they lie.

BaseError
├── UnknownBase     no base has this id
├── BaseMissing     the base is known but its folder is not on this machine
├── BaseDamaged     a file is absent or not what it should be; the text names it
└── FetchFailed     the download stopped: offline, refused, no room; what came so far is kept

The registry is data: `bases.toml`, an own file of the same form, and plain diffusers folders.
Needs neither torch nor diffusers.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

Family = Literal["starter", "sd15", "sd21", "sdxl"]

PROJECT = Path(__file__).parent.parent
WEIGHT_FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2")
PROBE = "probe"  # what reads a starter's own drawings; no published family comes with one
RECORD = "base.json"  # written last, so a folder that has it is complete
_HASHES = "hashes.json"


class BaseError(Exception):
    """Base of all errors about base models. The text is fit for a host."""


class UnknownBase(BaseError):
    """The id is named, with the ids that exist."""


class BaseMissing(BaseError):
    """The base is named, with the command that fetches it."""


class BaseDamaged(BaseError):
    """The file is named, with what is wrong and what to do."""


class FetchFailed(BaseError):
    """The repository and the cause are named; running the fetch again continues it."""


@dataclass(frozen=True)
class Base:
    """One base model. `memory_gb` is what training a person on it needs, about; `rank` orders bases
    by the likeness they reach (higher is better). `files` maps repository names to local names.
    `endpoint` is the hub's address where it is a mirror of huggingface.co."""

    id: str
    family: Family
    name: str
    folder: Path
    resolution: int
    licence: str
    licence_url: str
    memory_gb: float
    rank: int = 0
    repository: str = ""
    revision: str = ""
    endpoint: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A base and the reason it was chosen, in words for the host."""

    base: Base
    reason: str


@dataclass(frozen=True)
class Bases:
    """The known bases; `home` is where fetched ones and the hash cache lie."""

    home: Path
    _bases: Mapping[str, Base]

    def list(self) -> tuple[Base, ...]:
        """Every known base, the shipped one first."""
        return tuple(self._bases.values())

    def get(self, id: str) -> Base:
        """The base with this id, there or not. Raises `UnknownBase`."""
        try:
            return self._bases[id]
        except KeyError:
            raise UnknownBase(
                f"There is no base model {id!r}. Known: {', '.join(self._bases)}."
            ) from None

    def available(self, id: str) -> bool:
        """Whether the base's folder is complete on this machine. Raises `UnknownBase`."""
        try:
            _check_layout(self.get(id))
        except (BaseMissing, BaseDamaged):
            return False
        return True

    def check(self, id: str) -> Base:
        """The base, after its files were found whole. Raises a `BaseError` that names the file."""
        base = self.get(id)
        _check_layout(base)
        for name, expected in (dict(_recorded(base.folder)) | dict(base.sha256)).items():
            path = base.folder / name
            if not path.is_file():
                raise BaseDamaged(f"{name} of the base {id} is gone. {_again(base)}")
            if file_sha256(path) != expected:
                raise BaseDamaged(
                    f"{name} of the base {id} has changed or is damaged. {_again(base)}"
                )
        return base

    def sha256(self, id: str) -> str:
        """The hash that personal models name their base by (see `weights_sha256`)."""
        base = self.get(id)
        _check_layout(base)
        return weights_sha256(base.folder, self.home / "bases" / _HASHES)

    def default(self, memory_gb: float) -> Choice:
        """The best base that is there and that a device with `memory_gb` can train.

        Use 0 for a machine without an accelerator: only bases of the starter family are chosen.
        Raises `BaseMissing` when none is there.
        """
        there = [base for base in self.list() if self.available(base.id)]
        fit = [b for b in there if b.family == "starter" or b.memory_gb <= memory_gb]
        if not fit:
            names = ", ".join(base.id for base in self.list())
            raise BaseMissing(f"No base model is on this machine (known: {names}).")
        best = max(fit, key=lambda base: base.rank)
        better = [b for b in self.list() if b.rank > best.rank and b.memory_gb <= memory_gb]
        if memory_gb <= 0:
            return Choice(best, f"{best.name}: this machine has no accelerator for larger bases")
        if better:
            return Choice(
                best,
                f"{best.name} is the best that is here; this device could run "
                f"{max(better, key=lambda b: b.rank).id} after fetching it",
            )
        return Choice(best, f"{best.name} is the best that fits into {memory_gb:.0f} GB")


def registry(home: Path, extra: Path | None = None) -> Bases:
    """The bases known to a studio whose state lies in `home`.

    `extra` is an own file in the form of bases.toml, a diffusers folder, or a folder of diffusers
    folders; its bases come on top and may replace known ids. Raises `BaseDamaged` when `extra`
    cannot be read, naming the field.
    """
    found: dict[str, Base] = {}
    for base in _from_toml(Path(__file__).parent / "bases.toml", home):
        found[base.id] = base
    if extra is not None:
        own = _from_toml(extra, home) if extra.is_file() else _from_folders(extra)
        found |= {base.id: base for base in own}
    return Bases(home, found)


def weights_sha256(folder: Path, cache: Path | None = None) -> str:
    """One hash of a base's weights: SHA-256 over the names and SHA-256s of all safetensors files of
    its UNet, VAE and text encoders, in order. `cache` is a JSON file that remembers file hashes by
    size and modification time. Raises `BaseDamaged` for a folder without weights.
    """
    known: dict[str, Any] = {}
    if cache is not None and cache.is_file():
        try:
            known = json.loads(cache.read_text("utf-8"))
        except ValueError:
            known = {}
    files = [
        path for part in WEIGHT_FOLDERS for path in sorted((folder / part).glob("*.safetensors"))
    ]
    if not files:
        raise BaseDamaged(f"{folder} holds no safetensors weights, so it is not a base model.")
    digest = hashlib.sha256()
    fresh = dict(known)
    for path in files:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        entry = known.get(str(path))
        value = entry[1] if entry and entry[0] == stamp else file_sha256(path)
        fresh[str(path)] = [stamp, value]
        digest.update(f"{path.relative_to(folder).as_posix()} {value}\n".encode())
    if cache is not None and fresh != known:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, fresh)
    return digest.hexdigest()


def family_of(folder: Path) -> Family:
    """The family a diffusers folder belongs to, read from its configuration.

    SDXL has a second text encoder; SD 1.5 reads text 768 wide and SD 2.1 1024 wide; anything else
    is treated as a starter. Raises `BaseDamaged` when the configuration cannot be read.
    """
    index = _read_json(folder / "model_index.json")
    if "text_encoder_2" in index:
        return "sdxl"
    width = _read_json(folder / "unet" / "config.json").get("cross_attention_dim")
    return cast(Family, {768: "sd15", 1024: "sd21"}.get(cast(int, width), "starter"))


def _from_toml(path: Path, home: Path) -> Iterator[Base]:
    try:
        rows = tomllib.loads(path.read_text("utf-8")).get("base", [])
    except (OSError, ValueError) as error:
        raise BaseDamaged(f"{path} cannot be read as a list of bases: {error}") from error
    for row in rows:
        for name in ("id", "family"):
            if not row.get(name):
                raise BaseDamaged(f"A [[base]] in {path} has no `{name}`.")
        if row["family"] not in get_args(Family):
            raise BaseDamaged(
                f"`family` of base {row['id']!r} in {path} is {row['family']!r}; "
                f"it must be one of {', '.join(get_args(Family))}."
            )
        unsafe = [f for f in row.get("files", {}) if f.endswith((".bin", ".ckpt", ".pt", ".pkl"))]
        if unsafe:
            raise BaseDamaged(f"Base {row['id']!r} lists {unsafe[0]}; only safetensors are read.")
        folder = Path(row["folder"]).expanduser() if "folder" in row else None
        if folder is None:
            folder = home / "bases" / row["id"]
        elif not folder.is_absolute():
            folder = PROJECT / folder
        defaults = {"name": row["id"], "resolution": 512, "licence": "not stated"}
        yield Base(**(defaults | {"licence_url": "", "memory_gb": 6.0} | row | {"folder": folder}))


def _from_folders(extra: Path) -> Iterator[Base]:
    if not extra.is_dir():
        raise BaseDamaged(f"{extra} is neither a list of bases nor a folder.")
    folders = [extra] if (extra / "model_index.json").is_file() else sorted(extra.iterdir())
    for folder in folders:
        if not (folder / "model_index.json").is_file():
            continue
        family = family_of(folder)
        unet = _read_json(folder / "unet" / "config.json")
        vae = _read_json(folder / "vae" / "config.json")
        scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        memory = {"starter": 1.0, "sd15": 6.0, "sd21": 7.0, "sdxl": 16.0}[family]
        rank = {"starter": 0, "sd15": 2, "sd21": 1, "sdxl": 3}[family]
        yield Base(
            id=folder.name,
            family=family,
            name=folder.name,
            folder=folder,
            resolution=int(unet.get("sample_size", 64)) * scale,
            licence="not stated",
            licence_url="",
            memory_gb=memory,
            rank=rank,
        )


def _check_layout(base: Base) -> None:
    """Cheap: that every part is there. Contents are checked by `Bases.check` and by loading."""
    if not (base.folder / "model_index.json").is_file():
        raise BaseMissing(f"The base {base.id} is not on this machine. {_again(base)}")
    if base.repository and base.files and not (base.folder / RECORD).is_file():
        raise BaseMissing(f"The base {base.id} is only partly fetched. {_again(base)}")
    parts = [*WEIGHT_FOLDERS[:3], "tokenizer", "scheduler"]
    parts += ["text_encoder_2", "tokenizer_2"] if base.family == "sdxl" else []
    for part in parts:
        if not (base.folder / part).is_dir():
            raise BaseDamaged(f"The base {base.id} lacks the folder {part}. {_again(base)}")
    for part in WEIGHT_FOLDERS:
        folder = base.folder / part
        if folder.is_dir() and not any(folder.glob("*.safetensors")):
            raise BaseDamaged(f"{part} of the base {base.id} has no safetensors. {_again(base)}")


def _again(base: Base) -> str:
    if base.repository:
        return f"Run: avatar-studio bases fetch {base.id}"
    return f"Put the model's diffusers folder at {base.folder}."


def _recorded(folder: Path) -> Mapping[str, str]:
    path = folder / RECORD
    return _read_json(path).get("sha256", {}) if path.is_file() else {}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseDamaged(f"{path} is missing or damaged ({error}).") from error
    if not isinstance(content, dict):
        raise BaseDamaged(f"{path} is not a JSON object.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file, never leaving a part of one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1), "utf-8")
    partial.replace(path)

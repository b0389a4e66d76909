"""Everybody's adapters on one base: host memory by a byte budget, the hot ones on the device.

A *slot* is a place in the device-resident stacks; slot 0 is the bare base. Putting a person into a
slot is one copy; a person who is in a slot already costs nothing. The least recently used leave
first. Any thread may read and forget; one thread at a time seats and draws.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from diffusion.load import Parts
from diffusion.lora import Stack, attach
from diffusion.token import TokenBank
from serving.adapter import CARD, WEIGHTS, Adapter, ServedBase, read_adapter
from serving.errors import AdapterLost, AdapterRefused

BARE = 0
MIN_SLOTS = 2

Key = tuple[str, int, int]
Seat = tuple[Key, float]


@dataclass(frozen=True)
class Wanted:
    """A person at a strength, as one request asks for; `folder` None is the bare base."""

    folder: Path | None
    strength: float = 1.0


class Bank:
    """Host memory and device slots of one base.

    `host_bytes` bounds the parsed adapters, `device_bytes` the stacks (and so the slots; at least
    `batch_rows` of them are always made, so that a batch of different people fits).
    """

    def __init__(
        self,
        parts: Parts,
        base: ServedBase,
        *,
        host_bytes: int = 1 << 30,
        device_bytes: int = 1 << 28,
        batch_rows: int = 16,
    ) -> None:
        self._parts = parts
        self._base = base
        self._host_bytes = host_bytes
        self._device_bytes = device_bytes
        self.batch_rows = batch_rows
        self._lock = threading.RLock()
        self._host: OrderedDict[Key, Adapter] = OrderedDict()
        self._seats: OrderedDict[Seat, int] = OrderedDict()
        self._free: list[int] = []
        self._drawing: set[int] = set()
        self._leaving: set[int] = set()
        self._layers: dict[str, frozenset[str]] = {}
        self._rank = 0
        self._stacks: dict[str, Stack] = {}
        self._tokens: TokenBank | None = None
        self.loads = 0
        self.puts = 0

    @property
    def slots(self) -> int:
        """People that can be on the device at once, at the present layers and rank."""
        unet = self._stacks.get("unet")
        return 0 if unet is None else unet.slots - 1

    @property
    def slot_bytes(self) -> int:
        """Device memory of one person at the present layers and rank."""
        return sum(stack.vectors.nbytes // stack.slots for stack in self._stacks.values())

    @property
    def used_bytes(self) -> int:
        """Bytes of the adapters in host memory."""
        with self._lock:
            return sum(adapter.size_bytes for adapter in self._host.values())

    @property
    def room_bytes(self) -> int:
        """Bytes of host memory that no adapter uses."""
        return self._host_bytes - self.used_bytes

    def adapter(self, folder: Path) -> Adapter:
        """The checked adapter of a folder, from host memory if it is there, also when its files are
        gone by then.

        Raises `AdapterRefused`; a refused adapter changes nothing in the bank.
        """
        with self._lock:
            key = self._key(folder)
            held = self._host.get(key)
        # Outside the lock, so that others are seated meanwhile.
        read = read_adapter(folder, self._base, self._parts) if held is None else held
        if read.size_bytes > self._host_bytes:
            raise AdapterRefused(
                f"The personal model {folder.name} needs {read.size_bytes} bytes; "
                f"the bank holds {self._host_bytes}."
            )
        with self._lock:
            if held is None and key not in self._host:
                self.loads += 1
                self._host[key] = read
                self._shrink()
            if key in self._host:
                self._host.move_to_end(key)
            return read

    def check(self, wanted: Wanted) -> None:
        """Make sure that who is wanted can be drawn. Nothing is read for who is on the device.

        Raises `AdapterRefused`.
        """
        if wanted.folder is None:
            return
        with self._lock:
            resident = (self._key(wanted.folder), wanted.strength) in self._seats
        if not resident:
            self.adapter(wanted.folder)

    @torch.inference_mode()
    def forget(self, folder: Path) -> None:
        """Drop a folder's adapter from host memory and the device, zeroing its slots.

        A person who is being drawn leaves the device when that batch is done.
        """
        path = str(folder.resolve())
        with self._lock:
            for key in [key for key in self._host if key[0] == path]:
                del self._host[key]
            self.leave_device(folder)

    def forget_lost(self) -> int:
        """Forget everybody whose folder is gone; how many they were."""
        with self._lock:
            paths = {Path(key[0]) for key in (*self._host, *(key for key, _ in self._seats))}
        lost = [path for path in paths if not path.is_dir()]
        for path in lost:
            self.forget(path)
        return len(lost)

    @torch.inference_mode()
    def leave_device(self, folder: Path) -> None:
        """Free a person's slots; the adapter stays in host memory."""
        path = str(folder.resolve())
        with self._lock:
            for seat in [seat for seat in self._seats if seat[0][0] == path]:
                slot = self._seats.pop(seat)
                if slot in self._drawing:
                    self._leaving.add(slot)
                else:
                    self._vacate(slot)

    @contextmanager
    def seated(self, wanted: Sequence[Wanted]) -> Iterator[list[int]]:
        """Make everybody in `wanted` resident and keep them there -> their slots (0 is the base).

        Nothing is read from disk for who is there already. Raises `AdapterLost`. At most
        `batch_rows` different people fit at once.
        """
        with torch.inference_mode(), self._lock:
            slots = self._seat(wanted)
            self._drawing = set(slots)
        try:
            yield slots
        finally:
            with torch.inference_mode(), self._lock:
                self._drawing = set()
                for slot in self._leaving:
                    self._vacate(slot)
                self._leaving.clear()

    def bind_text(self, slots: Sequence[int] | None) -> None:
        """Say whose words and text-encoder adapters the next prompts use, one slot a prompt."""
        index = _index(slots)
        if self._tokens is not None:
            self._tokens.rows(index)
        for prefix, stack in self._stacks.items():
            if prefix != "unet":
                stack.rows(index)

    def bind_unet(self, slots: Sequence[int] | None) -> None:
        """Say whose adapters the rows of the next UNet call use."""
        if "unet" in self._stacks:
            self._stacks["unet"].rows(_index(slots))

    def close(self) -> None:
        """Take everything off the base again."""
        with self._lock:
            self._empty_device()
            self._host.clear()

    # -- inside -------------------------------------------------------------------------------

    def _key(self, folder: Path) -> Key:
        """A folder's identity and state: a version that was written again is read again, and one
        whose files are gone is the one that is held."""
        path = str(folder.resolve())
        try:
            stats = [(folder / file).stat() for file in (CARD, WEIGHTS)]
        except OSError:
            held = (*self._host, *(key for key, _ in self._seats))
            return next((key for key in reversed(held) if key[0] == path), (path, 0, 0))
        return path, sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)

    def _shrink(self) -> None:
        while self.used_bytes > self._host_bytes and len(self._host) > 1:
            self._host.popitem(last=False)

    def _seat(self, wanted: Sequence[Wanted]) -> list[int]:
        seats = [None if w.folder is None else (self._key(w.folder), w.strength) for w in wanted]
        folders = {
            seat: one.folder
            for seat, one in zip(seats, wanted, strict=True)
            if seat is not None and one.folder is not None
        }
        absent = self._absent(folders)
        if self._widen(list(absent.values())):
            absent = self._absent(folders)
        slots = []
        for seat in seats:
            if seat is None:
                slots.append(BARE)
                continue
            if seat not in self._seats:
                slot = self._take_slot(set(folders))
                try:
                    self._put(slot, absent[seat], seat[1])
                except BaseException:
                    self._free.append(slot)
                    raise
                self._seats[seat] = slot
            self._seats.move_to_end(seat)
            if seat[0] in self._host:
                self._host.move_to_end(seat[0])
            slots.append(self._seats[seat])
        return slots

    def _absent(self, folders: Mapping[Seat, Path]) -> dict[Seat, Adapter]:
        """The adapters of those who are not on the device yet."""
        try:
            return {
                seat: self.adapter(folder)
                for seat, folder in folders.items()
                if seat not in self._seats
            }
        except AdapterRefused as error:
            raise AdapterLost(f"{error} It could when the picture was asked for.") from error

    def _take_slot(self, needed: set[Seat]) -> int:
        if self._free:
            return self._free.pop()
        idle = next((seat for seat in self._seats if seat not in needed), None)
        if idle is None:
            raise ValueError(f"{len(needed)} people do not fit into {self.slots} slots.")
        return self._seats.pop(idle)

    def _put(self, slot: int, adapter: Adapter, strength: float) -> None:
        self._empty(slot)
        for prefix in adapter.layers:
            self._stacks[prefix].load(slot, adapter.state, strength)
        if adapter.vectors and self._tokens is not None:
            self._tokens.load(slot, adapter.token_ids, adapter.vectors)
        self.puts += 1

    def _empty(self, slot: int) -> None:
        for stack in self._stacks.values():
            stack.clear(slot)
        if self._tokens is not None:
            self._tokens.clear(slot)
            for vectors in self._tokens.vectors:
                vectors[slot].zero_()

    def _vacate(self, slot: int) -> None:
        self._empty(slot)
        self._free.append(slot)

    def _widen(self, adapters: Sequence[Adapter]) -> bool:
        """Make room for layers and ranks not met before: new, empty stacks for everybody.

        Tells whether it did; nobody is on the device then.
        """
        rank = max((a.rank for a in adapters), default=0)
        layers = dict(self._layers)
        for adapter in adapters:
            for prefix, names in adapter.layers.items():
                layers[prefix] = layers.get(prefix, frozenset()) | names
        if rank <= self._rank and layers == self._layers:
            return False
        rank = max(rank, self._rank)
        self._empty_device()
        try:
            self._attach(layers, rank, 1)
            slots = 1 + max(self.batch_rows, MIN_SLOTS, self._device_bytes // self.slot_bytes - 1)
            self._empty_device()
            self._attach(layers, rank, slots)
            self._tokens = TokenBank(self._parts.text_encoders, slots)
        except BaseException:
            self._empty_device()  # a part of the stacks would draw people wrongly
            raise
        self._rank, self._layers = rank, layers
        self._free = list(range(slots - 1, BARE, -1))
        return True

    def _attach(self, layers: Mapping[str, frozenset[str]], rank: int, slots: int) -> None:
        names = ("text_encoder", "text_encoder_2")
        models = {"unet": self._parts.unet}
        models |= dict(zip(names, self._parts.text_encoders, strict=False))
        dtype = self._parts.dtype
        for prefix, found in layers.items():
            self._stacks[prefix] = attach(models[prefix], sorted(found), slots, rank, dtype, prefix)

    def _empty_device(self) -> None:
        """Take everybody, and the room for them, off the base."""
        for stack in self._stacks.values():
            stack.detach()
        if self._tokens is not None:
            self._tokens.detach()
        self._stacks, self._tokens = {}, None
        self._layers, self._rank = {}, 0
        self._seats.clear()
        self._free = []


def _index(slots: Sequence[int] | None) -> torch.Tensor | None:
    if slots is None or all(slot == BARE for slot in slots):
        return None
    return torch.tensor(list(slots), dtype=torch.long)

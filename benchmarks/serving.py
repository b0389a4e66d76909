"""One shared base against stock diffusers: latency, switching people, mixed batches, people per GB.

`python -m benchmarks.serving [--quick] [--base FOLDER] [--shape sd15|sdxl] [--device cuda]
[--only PART ...] [--json FILE]`.
Ours and the peer run in turn in one process on one base. People have random weights of the
recipe's rank and layers, so only speed and memory are read from here. A ratio is peer over ours in
time or bytes (above 1 is better for us). On a CPU all seconds are CPU seconds of the process, by
all its threads; those of the Zipf run are given by the clock, too. On a GPU they are by the clock,
with the device's work done before and after. `FILE` is written after each part, and a part that
fails is named there and spoils no other.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.serving_aims import aims, compared
from benchmarks.serving_choices import decoding, forms
from benchmarks.serving_peer import Peer, timed, wait
from benchmarks.shapes import random_base
from diffusion.bases import family_of, weights_sha256
from diffusion.lora import attach
from diffusion.memory import give_back
from diffusion.sampling import Quality
from serving.adapter import CARD, WEIGHTS, ServedBase
from serving.bank import Bank, Wanted
from serving.batching import batch_rows, largest_that_pays
from serving.engine import Drawer
from serving.queue import RequestQueue
from serving.request import GenerationRequest
from training.recipe import default

PROMPT = "a portrait of a person, blue background"
QUALITIES: tuple[Quality, ...] = ("fast", "balanced", "best")
BATCHES = (1, 2, 4, 8, 16)
PARTS = ("latency", "switching", "batches", "memory", "zipf", "decoding", "forms")
ZIPF_PEOPLE = 1000
ZIPF_EXPONENT = 1.1
ROOM_BYTES = 12 * 10**9  # left beside a bank that fills a GPU: a batch's activations

Figures = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Print the tables and, last, one line of JSON; ends with 1 where a part failed."""
    given = _arguments(arguments)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        figures = measured(given, Path(scratch))
    show(figures)
    print(json.dumps(figures))
    if "failed" in figures:
        sys.exit(1)


def measured(given: argparse.Namespace, work: Path) -> Figures:
    """All parts that were asked for, one after another."""
    auto = given.device == "auto" and torch.cuda.is_available()
    cuda = auto or given.device.startswith("cuda")
    folder = given.base
    if given.shape:
        folder = random_base(work / given.shape, given.shape, "cuda" if cuda else "cpu")
        give_back()  # what drew the weights must not count below
    base = ServedBase(folder.name, weights_sha256(folder), family_of(folder), folder)
    drawer = Drawer.open(
        base, device=given.device, host_bytes=given.host_mb << 20, batch_rows=max(BATCHES)
    )
    people = make_people(work / "people", drawer, 16)
    before = allocated(drawer)
    peer = Peer(drawer.parts)
    figures: Figures = {
        "base": base.id,
        "family": base.family,
        "device": _device(drawer),
        "dtype": str(drawer.parts.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "adapter_bytes": (people[0] / WEIGHTS).stat().st_size,
        "pipeline_bytes": allocated(drawer) - before if cuda else _weights(drawer),
    }
    quick = given.quick
    repeats = {True: 5 if cuda else 3, False: 20}[quick]
    requests = {True: 64 if cuda else 24, False: 300}[quick]
    parts: dict[str, Callable[[], Figures]] = {
        "latency": lambda: latency(drawer, peer, people, repeats),
        "switching": lambda: switching(drawer, peer, people, 8 if quick else 30),
        "batches": lambda: batches(drawer, people, 1 if quick else 5),
        "memory": lambda: memory(drawer, people, figures["pipeline_bytes"]),
        "zipf": lambda: zipf(drawer, peer, people, work / "zipf", requests),
        "decoding": lambda: decoding(drawer.parts, 3 if quick else 15),
        "forms": lambda: forms(drawer.parts, 5 if quick else 30, quick=quick),
    }
    for name, part in parts.items():
        if name not in given.only:
            continue
        begun = time.perf_counter()
        try:
            figures |= part()
        except Exception as error:  # noqa: BLE001 - minutes on a GPU are dear: the rest goes on
            figures.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"[:500]
        figures[f"{name}_took_s"] = round(time.perf_counter() - begun, 1)
        figures["aims"] = compared(figures, aims(base.family, cuda=cuda))
        if given.json is not None:
            given.json.write_text(json.dumps(figures, indent=1))
    return figures


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, some minutes in all")
    parser.add_argument("--base", type=Path, default=Path("models/starter-3"))
    parser.add_argument("--shape", choices=("sd15", "sdxl"), help="random weights of this shape")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--host-mb", type=int, default=1024, help="host memory for adapters")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


def allocated(drawer: Drawer) -> int:
    """Bytes of the GPU's memory in use by tensors; 0 on a CPU."""
    device = drawer.parts.device
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _weights(drawer: Drawer) -> int:
    parts = drawer.parts
    modules = [parts.unet, parts.vae, *parts.text_encoders]
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


def _device(drawer: Drawer) -> str:
    if drawer.parts.device.type == "cuda":
        return torch.cuda.get_device_name(drawer.parts.device)
    return f"CPU, {os.cpu_count()} cores"


def make_people(folder: Path, drawer: Drawer, count: int) -> list[Path]:
    """Adapters of the recipe's rank and layers with random fp16 weights."""
    recipe = default(drawer.base.family)
    stack = attach(drawer.parts.unet, recipe.targets, 1, recipe.rank)
    card = {
        "base_id": drawer.base.id,
        "base_sha256": drawer.base.sha256,
        "family": drawer.base.family,
    }
    made = []
    for n in range(count):
        person = folder / f"person-{n}"
        person.mkdir(parents=True)
        with torch.no_grad():
            stack.vectors.normal_(0, 0.01)
        state = {key: value.half().contiguous() for key, value in stack.state(0).items()}
        save_file(state, person / WEIGHTS)
        (person / CARD).write_text(json.dumps(card))
        made.append(person)
    stack.detach()
    return made


def request(n: int, person: Path | None, quality: Quality) -> GenerationRequest:
    return GenerationRequest(
        id=str(n), prompt=PROMPT, seed=n, quality=quality, adapter=person, owner=str(person)
    )


def draw(drawer: Drawer, requests: list[GenerationRequest]) -> None:
    drawer.draw([drawer.check(one) for one in requests])


def latency(drawer: Drawer, peer: Peer, people: list[Path], repeats: int) -> Figures:
    """One person's picture at each quality; ours and the peer's in turn."""
    figures: Figures = {}
    peer.load(people[0])
    for quality in QUALITIES:
        ours, theirs = [], []
        for n in range(-1, repeats):
            one = [request(n + 1, people[0], quality)]
            pair = (
                timed(drawer.parts, draw, drawer, one),
                timed(drawer.parts, peer.draw, PROMPT, n + 1, quality),
            )
            if n >= 0:  # the first round warms both up
                ours.append(pair[0])
                theirs.append(pair[1])
        for name, values in (("ours", ours), ("peer", theirs)):
            figures[f"{quality}_{name}_p50_s"] = round(statistics.median(values), 4)
            figures[f"{quality}_{name}_p95_s"] = round(percentile(values, 95), 4)
        figures[f"latency_{quality}_ratio"] = ratio(
            statistics.median(theirs), statistics.median(ours)
        )
    peer.unload()
    return figures


def switching(drawer: Drawer, peer: Peer, people: list[Path], repeats: int) -> Figures:
    """Going from one person to the next, until the UNet would draw the other."""
    bank = drawer.bank
    for person in people:
        bank.adapter(person)

    def switch(person: Path) -> None:
        with bank.seated([Wanted(person)]) as slots:
            bank.bind_unet(slots * 2)
        bank.bind_unet(None)

    switch(people[0])
    taken: dict[str, list[float]] = {"resident": [], "host": [], "disk": []}
    for turn in range(repeats):
        one, other = people[turn % len(people)], people[(turn + 1) % len(people)]
        bank.forget(other)
        taken["disk"].append(timed(drawer.parts, switch, other))
        switch(one)
        taken["resident"].append(timed(drawer.parts, switch, other))
        bank.leave_device(other)
        taken["host"].append(timed(drawer.parts, switch, other))
    theirs = peer.switches(people[:4], max(3, repeats // 3))
    figures: Figures = {
        f"switch_{name}_ms": round(statistics.median(values) * 1000, 3)
        for name, values in (taken | {f"peer_{k}": v for k, v in theirs.items()}).items()
    }
    hot = statistics.median(theirs["hotswap"])
    figures["switch_resident_ratio"] = ratio(hot, statistics.median(taken["resident"]))
    figures["switch_host_ratio"] = ratio(hot, statistics.median(taken["host"]))
    figures["switch_disk_ratio"] = ratio(
        statistics.median(theirs["load"]), statistics.median(taken["disk"])
    )
    return figures


def batches(drawer: Drawer, people: list[Path], repeats: int) -> Figures:
    """1 to 16 different people in one batch against the same people one after another."""
    figures: Figures = {}
    seconds: dict[int, float] = {}
    for size in BATCHES:
        requests = [request(n, people[n], "fast") for n in range(size)]
        draw(drawer, requests)
        if drawer.halved:
            figures["batch_that_does_not_fit"] = size
            break
        mixed, alone = [], []
        for _ in range(repeats):
            mixed.append(timed(drawer.parts, draw, drawer, requests))
            alone += [timed(drawer.parts, draw, drawer, [one]) for one in requests[:4]]
        seconds[size] = statistics.median(mixed)
        figures[f"batch_{size}_s"] = round(seconds[size], 4)
        figures[f"batch_{size}_ratio"] = ratio(size * statistics.median(alone), seconds[size])
    figures["batch_pays"] = largest_that_pays(seconds)
    figures["mixed_batch_ratio"] = figures[f"batch_{figures['batch_pays']}_ratio"]
    return figures


def memory(drawer: Drawer, people: list[Path], pipeline: int) -> Figures:
    """Bytes per person here, against a pipeline of their own for each (AWS's sample)."""
    host = drawer.bank.adapter(people[0]).size_bytes
    with drawer.bank.seated([Wanted(people[0])]):
        pass
    slot = drawer.bank.slot_bytes
    figures = {
        "people_per_gb_device": int(1e9 / slot),
        "people_per_gb_host": int(1e9 / host),
        "people_per_gb_peer": round(1e9 / (pipeline + host), 2),
        "people_per_gb_ratio": ratio(pipeline + host, slot),
    }
    return figures | (_filled(drawer, people) if drawer.parts.device.type == "cuda" else {})


def _filled(drawer: Drawer, people: list[Path]) -> Figures:
    """A bank that takes all of the GPU but room for drawing, and a mixed batch drawn from it."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(drawer.parts.device)
    drawer.bank.close()
    before = allocated(drawer)
    bank = Bank(drawer.parts, drawer.base, device_bytes=free - ROOM_BYTES, batch_rows=4)
    try:
        draw(
            Drawer(drawer.parts, drawer.base, bank),
            [request(n, person, "fast") for n, person in enumerate(people[:4])],
        )
        held = allocated(drawer) - before
        return {
            "bank_gb": round(held / 1e9, 2),
            "people_on_device": bank.slots,
            "people_per_gb_measured": round(bank.slots * 1e9 / held, 1),
        }
    finally:
        bank.close()
        torch.cuda.empty_cache()


def zipf(drawer: Drawer, peer: Peer, people: list[Path], folder: Path, count: int) -> Figures:
    """Requests of 1,000 people by a Zipf law: the queue here, hot-swap in turn at the peer."""
    rows = batch_rows(drawer.parts, max(BATCHES))
    folder.mkdir()
    many = []
    for n in range(ZIPF_PEOPLE):
        person = folder / str(n)
        person.mkdir()
        for name in (CARD, WEIGHTS):  # links: other people to the bank, no more room on disk
            os.link(people[n % len(people)] / name, person / name)
        many.append(person)
    weights = [1 / (n + 1) ** ZIPF_EXPONENT for n in range(ZIPF_PEOPLE)]
    asked = random.Random(0).choices(many, weights, k=count)
    loads, puts = drawer.bank.loads, drawer.bank.puts
    queue = RequestQueue(drawer, batch_rows=rows, most_waiting=count, most_waiting_each=count)
    wait(drawer.parts)
    start, spent = time.perf_counter(), time.process_time()
    tickets = [queue.submit(request(n, person, "fast")) for n, person in enumerate(asked)]
    for ticket in tickets:
        ticket.result()
    ours, ours_cpu = time.perf_counter() - start, time.process_time() - spent
    queue.close()
    theirs_count = max(6, count // 8)
    start, spent = time.perf_counter(), time.process_time()
    _serve_in_turn(peer, asked[:theirs_count])
    wait(drawer.parts)
    theirs, theirs_cpu = time.perf_counter() - start, time.process_time() - spent
    return {
        "zipf_people": len(set(asked)),
        "zipf_requests": count,
        "zipf_pictures_per_s": round(count / ours, 3),
        "zipf_peer_pictures_per_s": round(theirs_count / theirs, 3),
        "zipf_disk_loads": drawer.bank.loads - loads,
        "zipf_device_puts": drawer.bank.puts - puts,
        "zipf_ratio": ratio(theirs / theirs_count, ours / count),
        "zipf_cpu_s_each": round(ours_cpu / count, 4),
        "zipf_peer_cpu_s_each": round(theirs_cpu / theirs_count, 4),
        "zipf_cpu_ratio": ratio(theirs_cpu / theirs_count, ours_cpu / count),
        "zipf_batch_rows": rows,
    }


def _serve_in_turn(peer: Peer, asked: list[Path]) -> None:
    for n, person in enumerate(asked):
        peer.hotswap(person)
        peer.draw(PROMPT, n, "fast")
    peer.unload()


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def ratio(peer: float, ours: float) -> float:
    return round(peer / ours, 3)


def show(figures: Figures) -> None:
    """The figures as a table."""
    table = Table(title=f"serving on {figures['base']}, {figures['device']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        if name != "aims":
            table.add_row(name, str(value))
    reached = Table(title="aims")
    for column in ("aim", "wanted", "reached", "met"):
        reached.add_column(column)
    for row in figures.get("aims", ()):
        reached.add_row(*(str(value) for value in row.values()))
    Console().print(table, reached)


if __name__ == "__main__":
    main()

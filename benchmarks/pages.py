"""How fast the pages are: a real studio, a real browser, and what a viewer who only looks costs.

python -m benchmarks.pages [--quick]

Measured beside the limits the project set itself: interactive in 2 s, the first verdict within 1 s
of a dropped photo, and 0.2 CPU-seconds a minute for an idle viewer. The last line is one JSON
object; a `…_ratio` is the limit over what was measured, so above 1 is better than promised.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import walk
from tests.browser.conftest import DESKTOP, FLAGS, PHONE
from tests.browser.server import ROOT, Server
from tests.tiny_bases import tiny_base

INTERACTIVE_S, VERDICT_S, IDLE_CPU_S = 2.0, 1.0, 0.2
SAMPLES = ROOT / "studio" / "samples" / "person-1"
TICKS = os.sysconf("SC_CLK_TCK")


def interactive(browser: Browser, server: Server, size: tuple[int, int]) -> tuple[float, float]:
    """Seconds until the page answers a click, with an empty cache and with a filled one.

    Its heading comes from Python over Gradio's queue, so when it is there everything works.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    taken = []
    for _ in range(2):
        begun = time.perf_counter()
        page.goto(server.url, wait_until="commit")
        page.wait_for_selector(".page h1")
        page.evaluate("() => new Promise((done) => requestIdleCallback(done, { timeout: 2000 }))")
        taken.append(time.perf_counter() - begun)
    context.close()
    return taken[0], taken[1]


def verdicts(browser: Browser, server: Server, drops: int) -> tuple[list[float], list[float]]:
    """Seconds from the drop to the verdict: of single photos, and of the first of four at once."""
    page = browser.new_context(locale="en-GB").new_page()
    page.goto(server.url)
    page.wait_for_selector(".page h1")
    walk.add_person(page, "Measured")
    photos = sorted(SAMPLES.glob("*.webp"))
    single = [_drop(page, [photo], before) for before, photo in enumerate(photos[:drops])]
    several = [_drop(page, photos[drops : drops + 4], drops)]
    page.wait_for_function(
        "(all) => document.querySelectorAll('.card[data-photo]').length === all", arg=drops + 4
    )
    page.context.close()
    return single, several


def _drop(page: Page, files: list[Path], before: int) -> float:
    begun = time.perf_counter()
    page.set_input_files("#drop input[type=file]", [str(file) for file in files])
    page.wait_for_function(
        "(seen) => document.querySelectorAll('.card[data-photo]').length > seen",
        arg=before, polling=20,
    )  # fmt: skip
    taken = time.perf_counter() - begun
    # The next drop begins when this one is all over.
    page.wait_for_function("() => !document.querySelector('.card-waiting')")
    page.wait_for_timeout(300)
    return taken


def idle(browser: Browser, server: Server, seconds: float) -> dict[str, float]:
    """CPU-seconds a minute of the web process: alone, and what one viewer who looks adds."""
    alone = _cpu_a_minute(server.pid, seconds)
    page = browser.new_context().new_page()
    page.goto(server.url)
    page.wait_for_selector(".page h1")
    page.wait_for_timeout(6000)
    watched = _cpu_a_minute(server.pid, seconds)
    page.context.close()
    return {"alone": alone, "watched": watched, "viewer": max(0.0, watched - alone)}


def _cpu_a_minute(pid: int, seconds: float) -> float:
    before = _cpu_s(pid)
    time.sleep(seconds)
    return (_cpu_s(pid) - before) * 60 / seconds


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far, all its threads (proc(5): fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(browser: Browser, server: Server, quick: bool) -> dict[str, float]:
    rounds, drops, seconds = (3, 4, 40.0) if quick else (7, 8, 180.0)
    interactive(browser, server, DESKTOP)  # the first visit compiles templates
    visits = [interactive(browser, server, (DESKTOP, PHONE)[n % 2]) for n in range(rounds)]
    single, several = verdicts(browser, server, drops)
    figures = idle(browser, server, seconds)
    return {
        "interactive_cold_s": statistics.median(first for first, _ in visits),
        "interactive_warm_s": statistics.median(second for _, second in visits),
        "interactive_worst_s": max(max(one) for one in visits),
        "verdict_s": statistics.median(single),
        "verdict_worst_s": max(single),
        "verdict_of_four_s": several[0],
        "idle_alone_cpu_s": figures["alone"],
        "idle_watched_cpu_s": figures["watched"],
        "idle_viewer_cpu_s": figures["viewer"],
    }


def told(figures: dict[str, float]) -> dict[str, float]:
    """The figures with their ratios to the limits."""
    ratios: dict[str, Callable[[], float]] = {
        "interactive_ratio": lambda: INTERACTIVE_S / figures["interactive_cold_s"],
        "verdict_ratio": lambda: VERDICT_S / figures["verdict_s"],
        "idle_ratio": lambda: IDLE_CPU_S / max(figures["idle_viewer_cpu_s"], 0.005),
    }
    return {k: round(v, 3) for k, v in figures.items()} | {
        name: round(ratio(), 2) for name, ratio in ratios.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the pages in a real browser.")
    parser.add_argument("--quick", action="store_true", help="within three minutes")
    quick = parser.parse_args().quick
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if chromium is None:
        raise SystemExit("Chromium is not installed (Debian: apt-get install chromium).")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        tiny_base(Path(scratch) / "bases" / "tiny", "starter")
        server = Server(
            Path(scratch) / "home", bases_file=Path(scratch) / "bases", base="tiny", device="cpu"
        ).start()
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
            figures = told(measure(browser, server, quick))
            browser.close()
        finally:
            server.stop()
    for name, value in figures.items():
        print(f"{name:24} {value:8.3f}")
    print(json.dumps({"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)} | figures))


if __name__ == "__main__":
    main()

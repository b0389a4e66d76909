"""`python -m training.starter STEP --work DIR`: the recipe, one resumable step at a time."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from training.starter import (
    autoencoder,
    checkpoint,
    denoiser,
    export,
    pictures,
    probe,
    sample,
    tokenizer,
)
from training.starter import recipe as recipes
from training.starter.recipe import Recipe


def _pictures(recipe: Recipe, work: Path) -> None:
    for kind in pictures.SETS:
        made = pictures.render(kind, recipe, work / "pictures")
        print(f"{kind}: {made} chunks rendered", flush=True)


def _probes(recipe: Recipe, work: Path) -> None:
    for seed in (recipe.probe.choosing_seed, recipe.probe.reporting_seed):
        probe.train(recipe, work, seed)


STEPS: dict[str, Callable[[Recipe, Path], object]] = {
    "pictures": _pictures,
    "autoencoder": autoencoder.train,
    "tokenizer": tokenizer.train,
    "denoiser": denoiser.train,
    "decoder": autoencoder.tune_decoder,
    "probe": _probes,
    "export": export.export,
}


def main() -> None:
    """Run one step, or `all` in order. Each step goes on where a stopped run left it."""
    parser = argparse.ArgumentParser(prog="python -m training.starter", description=__doc__)
    parser.add_argument("step", choices=[*STEPS, "all", "sample"])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything made")
    parser.add_argument("--recipe", type=Path, help="another recipe than the shipped one")
    chosen = parser.parse_args()
    checkpoint.stop_on_signals()
    chosen.work.mkdir(parents=True, exist_ok=True)
    if chosen.step == "sample":
        sample.write(chosen.work)
        return
    recipe = recipes.load(chosen.recipe)
    try:
        for name in STEPS if chosen.step == "all" else (chosen.step,):
            STEPS[name](recipe, chosen.work)
    except checkpoint.Stopped:
        raise SystemExit("Stopped. Run the same command again to go on.") from None


if __name__ == "__main__":
    main()

"""The starter's own byte-level BPE, learned from its captions, as a stock CLIPTokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.starter import captions, pictures
from training.starter.recipe import Recipe

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
"""As in SD 1.5, so that code written for it needs no change."""

COMMON_WORDS = """
boy girl child old young lady guy someone people head hat cap helmet crown suit dress jacket
tie scarf earrings necklace makeup freckles anime sketch oil painting watercolor cartoon
pencil neon light soft studio beach forest city night day sky space castle robot wizard
knight pirate king queen superhero astronaut doctor chef artist beautiful handsome cute cool
funny serious smile laughing eyes nose mouth face hair looking camera front side view simple
colorful bright dark pastel vintage modern style art digital low quality bad ugly deformed
extra text watermark cropped worst jpeg artifacts distorted wearing standing in on at the
and of with without no
"""


def train(recipe: Recipe, work: Path) -> CLIPTokenizer:
    """Learn the vocabulary, or load it; it lies in `work/tokenizer`, or where the weights begin."""
    if recipe.start:
        return CLIPTokenizer.from_pretrained(recipe.start / "tokenizer")
    done = work / "tokenizer"
    if not (done / "tokenizer_config.json").exists():
        done.mkdir(parents=True, exist_ok=True)
        vocabulary, merges = _learn(_texts(recipe), recipe.tokenizer.vocabulary)
        (done / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
        (done / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
        settings = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": LENGTH,
            "bos_token": START,
            "eos_token": END,
            "pad_token": END,
            "unk_token": END,
            "do_lower_case": True,
        }
        (done / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return CLIPTokenizer.from_pretrained(done)


def _texts(recipe: Recipe) -> list[str]:
    rng = random.Random(recipe.seed)
    drawn = list(pictures.subjects("drawn", recipe)) + list(pictures.subjects("photo", recipe))
    unnamed = [s for s in drawn if not s.name]
    texts = [captions.caption(rng.choice(unnamed), rng) for _ in range(recipe.tokenizer.captions)]
    everyday = [
        *COMMON_WORDS.split(),
        *(f"a photo of {name} person" for name in pictures.RESERVED_NAMES),
    ]
    return texts + everyday * 40


def _learn(texts: list[str], size: int) -> tuple[dict[str, int], list[str]]:
    """CLIP's way of splitting text, with merges learned from ours."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pattern = Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        min_frequency=20,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]["merges"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in learned]
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters)])
    tokens |= dict.fromkeys(merge.replace(" ", "") for merge in merges)
    tokens |= {START: None, END: None}
    return {token: number for number, token in enumerate(tokens)}, merges

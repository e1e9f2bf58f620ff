"""A CLIP tokenizer of the sprite world's own: one token for each word of its captions, bytes for all other text."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"

Pair = tuple[str, str]


def build_tokenizer(words: Iterable[str], folder: Path, *, max_length: int = 77) -> CLIPTokenizer:
    """Write CLIP's two files, `vocab.json` and `merges.txt`, and open them.

    As in CLIP's own vocabulary, bytes come first, then bytes that end a word, then merges, then the start and the end
    token; the end token has the highest id.

    Args:
        words: lower-case words that become single tokens.
        folder: exists; the files are written there.
        max_length: tokens that every prompt is padded or cut to; Stable Diffusion 1.x's 77.
    """
    merges = learn_merges(words)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *map("".join, merges), START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=max_length)


def learn_merges(words: Iterable[str]) -> list[Pair]:
    """Return byte-pair merges, in order, after which each of the words is one symbol.

    The most frequent pair goes first, ties by alphabet, and every merge is applied to all words before the next is
    chosen: a tokenizer that replays the list meets the same words in the same state, so no merge can be in its way.
    """
    split = [[*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))]
    merges = []
    while counts := Counter(pair for symbols in split for pair in itertools.pairwise(symbols)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_merge(symbols, best) for symbols in split]
    return merges


def _merge(symbols: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        # A symbol that was merged just now cannot be the first half again: "aaaa" gives aa aa, as in BPE.
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged

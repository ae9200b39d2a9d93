"""Small tokenizers, CLIP's and T5's, whose vocabulary is the training captions' words.

Each word of the captions is one token, while any other word is still spelled, out of bytes (CLIP)
or ASCII's letters (T5): two different labels in them never tokenise alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def build(captions: list[str], folder: Path, max_length: int, keep: bool = False) -> Any:
    """Learn merges from `captions`, save the tokenizer under `folder`, and return it.

    One that is there is returned as it is if it has every word of the captions, or if weights know
    it: merges differ from one learning to the next.

    Args:
        captions: The training captions.
        folder: Where `vocab.json` and `merges.txt` go.
        max_length: Window of the text encoder, in tokens.
        keep: Whether weights have begun to learn with the one that is there.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    # CLIP splits at spaces before it merges, so the merges are learned on single words.
    words = sorted({w for c in captions for w in split_words(c)})
    saved = folder / "tokenizer.json"
    if saved.exists():
        clip = CLIPTokenizer.from_pretrained(folder, model_max_length=max_length)
        if keep or all(len(clip.tokenize(word)) == 1 for word in words):
            return clip
        saved.unlink()  # it would win over the new words
    start, end, suffix = "<|startoftext|>", "<|endoftext|>", "</w>"
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=suffix))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    # As in CLIP: every byte, every byte at a word's end, the merges' results, the two markers.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [a + suffix for a in alphabet] + [m.replace(" ", "") for m in merges]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    vocab |= {start: len(vocab), end: len(vocab) + 1}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8"
    )
    clip = CLIPTokenizer.from_pretrained(folder, model_max_length=max_length)
    clip.save_pretrained(folder)
    return clip


def build_t5(captions: list[str], folder: Path, max_length: int, keep: bool = False) -> Any:
    """A T5 tokenizer with the words of `captions`, saved under `folder` and returned.

    A unigram model whose pieces are words after a space, and single characters, which cost so much
    more that a known word is never spelled. It is for lower-cased text; characters beyond ASCII
    are unknown unless the captions have them in a word.

    Args:
        captions: The training captions.
        folder: Where `tokenizer.json` and its configuration go.
        max_length: Window of the text encoder, in tokens.
        keep: Whether weights have begun to learn with the one that is there.
    """
    from transformers import T5Tokenizer

    if keep and (folder / "tokenizer.json").exists():
        return T5Tokenizer.from_pretrained(folder, model_max_length=max_length)
    space = "\u2581"
    words = sorted({w.strip(",.;:!?") for c in captions for w in c.lower().split()} - {""})
    letters = [chr(i) for i in range(33, 127) if not chr(i).isupper()]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0), (space, -10.0)]
    pieces += [(letter, -10.0) for letter in letters]
    pieces += [(space + word, -5.0) for word in words]
    tokens = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)
    folder.mkdir(parents=True, exist_ok=True)
    tokens.save_pretrained(folder)
    return tokens


def split_words(text: str) -> list[str]:
    """Words as CLIP's pre-tokenizer sees them: letters, single digits, runs of punctuation."""
    import re

    return re.findall(r"[^\W\d_]+|\d|[^\s\w]+|_", text.lower())

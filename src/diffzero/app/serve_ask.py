"""What the page asks, checked; and what it may choose from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..options import short

MOST_WORDS = 100
MOST_DRAWS = 256
# Noise draws that the page proposes for each method, and the fewest that it takes.
DRAWS = {
    "race": (32, 4),
    "elbo": (32, 4),
    "noise-denoise": (4, 1),
    "weighted": (4, 1),
    "cross-attention": (1, 1),
}
METHODS = tuple(DRAWS)
AUTO = "auto"  # the model that knows most of the words
EXAMPLES = {
    "photograph": ("A photograph: cat, dog or ship?", "photograph"),
    "digit": ("A handwritten digit", "digit"),
    "scene": ("Two coloured shapes: which colour is whose?", "scene"),
}


@dataclass(frozen=True)
class Ask:
    """One question about one photo.

    Attributes:
        photo: The file's bytes; its name never reaches the server.
        words: To choose from; of an explanation two, the first against the second.
        model: One of those that the server was started with, chosen by the words for `AUTO`.
        method: One of `METHODS`.
        draws: Noise draws per word; for a race, the most.
        seed: Of the noise.
        template: Prompt with `{}` for the word; None for the model's own.
        explain: Whether the map is asked for, rather than the answer.
    """

    photo: bytes
    words: list[str]
    model: str
    method: str
    draws: int
    seed: int
    explain: bool
    template: str | None = None

    @classmethod
    def of(cls, photo: bytes, fields: Mapping[str, str], explain: bool, models: list[str]) -> Ask:
        """From the fields of a request.

        Raises:
            InputError: a field that does not fit, named.
        """
        from ..data import split_labels
        from ..prompts import check_labels, check_templates

        typed = fields.get("words", "")
        lines = [line.strip().rstrip(",;\uff0c").strip() for line in typed.splitlines()]
        words = check_labels(split_labels(",".join(filter(None, lines))))
        if len(words) > MOST_WORDS:
            raise InputError(f"The page takes up to {MOST_WORDS} words; got {len(words)}.")
        if explain and len(words) != 2:
            raise InputError(f"An explanation compares two words; got {len(words)}.")
        template = fields.get("template", "").strip()[:500] or None
        if template is not None:
            check_templates(template, template)
        method = _one_of("method", fields.get("method", METHODS[0]), METHODS)
        proposed, least = DRAWS[method]
        return cls(
            photo, words, _model(fields.get("model", AUTO), words, models), method,
            _whole("draws", fields.get("draws", str(proposed)), least, MOST_DRAWS),
            _whole("seed", fields.get("seed", "0"), 0, 2**32 - 1), explain,
            template,
        )  # fmt: skip


def _model(name: str, words: list[str], models: list[str]) -> str:
    from .advice import model_for

    return model_for(words, models) if name == AUTO else _one_of("model", name, models)


def _one_of(name: str, value: str, known: Any) -> str:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; got {short(value)}.")
    return value


def _whole(name: str, text: str, low: int, high: int) -> int:
    digits = text.isascii() and text.isdigit() and len(text) < 12
    if not digits or not low <= int(text) <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}; got {short(text)}.")
    return int(text)


def choices(models: list[str], clip: str | None) -> dict[str, Any]:
    """What the page's pickers show: models with memory, methods with cost, examples."""
    from ..methods import method_class
    from ..models.cards import cards
    from .advice import needs
    from .lists import described

    known = cards()
    rows = [{"name": AUTO, "about": "takes the model that knows most of the words", "here": True}]
    rows += [{"name": n, "about": _about(known.get(n)), "here": True} for n in models]
    rows += [
        {"name": c.name, "about": f"{c.knows}; {needs(c)}: diffzero fetch {c.name}, then "
         f"diffzero serve --model {c.name}", "here": False}
        for c in known.values() if c.family != "clip" and not c.bundled and not c.distilled
    ]  # fmt: skip
    listed = [(m, described(method_class(m))) for m in METHODS]
    return {
        "models": rows,
        "methods": [{"name": m, "does": d[1], "cost": d[3], "draws": DRAWS[m][0],
                     "least": DRAWS[m][1]} for m, d in listed],
        "examples": [{"name": n, "title": t, "words": example(n)[1],
                      "template": "{}" if n == "scene" else ""}
                     for n, (t, _) in EXAMPLES.items()],
        "clip": clip,
    }  # fmt: skip


def _about(card: Any) -> str:
    if card is None:
        return "your own model"
    from .lists import memory

    return f"knows {card.knows or 'the words of its card'}; runs on {memory(card)}"


def example(name: str) -> tuple[bytes, str]:
    """An example's photo as PNG, and the words that go with it.

    Raises:
        InputError: no such example.
    """
    from PIL import Image

    from ..data import caption_words, digits_split
    from ..data.scenes import example as scene
    from ..data.scenes import render
    from ..images import load_image

    if name not in EXAMPLES:
        raise InputError(f"No example {short(name)}; there are {', '.join(EXAMPLES)}.")
    if name == "photograph":
        pixels = load_image(Path(__file__).parent / "chelsea.jpg")
        words = ["cat", "dog", "ship"]
    elif name == "digit":
        pixels, words = digits_split()[1][0][2], list(caption_words()["digits"]["classes"])
    else:
        one = scene("validation", 0, 0, ("binding",))
        pixels, words = render(one.scene, 64), list(one.candidates)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), ", ".join(words)

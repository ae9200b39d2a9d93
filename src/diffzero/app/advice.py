"""What to do next: which model knows the words, and what it takes to have it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from .console import note

if TYPE_CHECKING:
    from ..models.cards import Card

DEFAULT = "tiny-sd"  # answers where no bundled model knows the words
ANY = "any photo"  # what a card says that knows no bounds
ROOM = 1.5  # times the weights, for what is computed with them


def rounded(gigabytes: float) -> str:
    """`3.2 GB`, `51 GB`."""
    return f"{gigabytes:.{int(gigabytes < 10)}f} GB"


def needs(card: Card) -> str:
    """What a card takes: `4.3 GB to fetch, 2.1 GB of weights in memory`."""
    if card.bundled:
        return "comes with diffzero"
    fetch = f"{card.gigabytes:g} GB to fetch" if card.gigabytes else "to fetch from the hub"
    return fetch + (f", {card.weights_gb:g} GB of weights in memory" if card.weights_gb else "")


def open_models() -> list[Card]:
    """Models whose words have no list, the smallest of each kind: CLIP, then diffusion."""
    from ..models.cards import cards

    found = [c for c in cards().values() if c.knows == ANY and not c.distilled]
    found.sort(key=lambda c: c.gigabytes or 0)
    clip = [c for c in found if c.family == "clip"]
    return clip[:1] + [c for c in found if c.family != "clip"][:1]


def other_models() -> str:
    """A sentence on models that know more words, with what each takes."""
    clip, diffusion = open_models()
    return (
        f"{clip.name} ({needs(clip)}) knows photographs by any words, is fast without a GPU too, "
        f"and is often enough; the diffusion model {diffusion.name} ({needs(diffusion)}) knows "
        f"them too, and wants a GPU. Fetch one once: diffzero fetch {clip.name}; then add "
        f"--model {clip.name}. "
        "All: diffzero models"
    )


def advise_on_words(classifier: Any, labels: Sequence[str]) -> None:
    """Say which model knows the words, if this one does not; else what a bundled one knows."""
    from ..prompts import unknown_words

    model = classifier.backbone_
    unknown = [word for label in labels for word in unknown_words(model, label)]
    if not unknown:
        remind_of_bounds(model.name)
        return
    meant = spelled_otherwise(unknown)
    if meant:
        note(f"did you mean {', '.join(f'{b} for {a}' for a, b in meant.items())}?")
    here = [f"{name}, which comes with diffzero, knows these words: add --model {name}. "
            for name in bundled_with(labels)]  # fmt: skip
    note(f"{model.name} knows {_about(model.name)}. {''.join(here[:1])}{other_models()}.")


def spelled_otherwise(words: Sequence[str]) -> dict[str, str]:
    """Of words that nobody knows, those that bundled models know in the singular or alike."""
    from ..models.cards import cards

    readers = [c for c in cards().values() if c.bundled and c.vocabulary]
    known = sorted({word for card in readers for word in card.vocabulary or () if len(word) > 2})
    near = {word: get_close_matches(word, known, 1, 0.8) for word in words if word not in known}
    return {word: found[0] for word, found in near.items() if found}


def remind_of_bounds(name: str) -> None:
    """Say what a bundled model knows: any other photo gets one of the words all the same."""
    from ..models.cards import cards

    card = cards().get(name)
    if card is not None and card.bundled and card.knows:
        note(f"{card.name} knows {card.knows}; a photo of anything else gets a wrong word")


def model_for(labels: Sequence[str], offered: Sequence[str] | None = None) -> str:
    """The model that answers where the user names none: the one that knows most labels.

    Args:
        labels: What the user typed.
        offered: Models to choose from, of equals the first; the bundled ones if None. One that
            is not bundled counts as knowing all words.
    """
    from ..models.cards import cards

    known, bundled = bundled_knowing(labels), {c.name for c in cards().values() if c.bundled}

    def knows(name: str) -> int:
        return known.get(name, 0 if name in bundled else len(labels))

    return max(offered or [DEFAULT, *known], key=knows)


def bundled_with(labels: Sequence[str]) -> list[str]:
    """Bundled diffusion models whose captions had every word of the labels."""
    return [name for name, n in bundled_knowing(labels).items() if n == len(labels)]


def bundled_knowing(labels: Sequence[str]) -> dict[str, int]:
    """Of how many labels the captions of each bundled diffusion model had every word."""
    from ..models.cards import cards
    from ..prompts import words_in

    readers = [c for c in cards().values() if c.bundled and c.family != "clip" and c.vocabulary]
    words = [set(words_in(label)) for label in labels]
    return {c.name: sum(w <= set(c.vocabulary or ()) for w in words) for c in readers}


def advise_on_none(classifier: Any, none: int, photos: int) -> None:
    """Say what to try, if most photos show none of the words."""
    if photos and 2 * none > photos:
        name = classifier.backbone_.name
        note(
            f"{none:,} of {photos:,} photos show none of these words, as {name} sees them: it "
            f"knows {_about(name)}. Try other words, a lower --threshold, or another model: "
            f"{other_models()}."
        )


def _about(name: str) -> str:
    from ..models.cards import cards

    card = cards().get(name)
    return card.knows if card is not None and card.knows else "the words of its card"

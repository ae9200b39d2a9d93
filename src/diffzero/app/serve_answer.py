"""How a question of the page is answered.

An answer is told in events, dictionaries that become lines of JSON: `race` or `progress` while the
network works, `answer` with ranked words, `clip` beside it, or `why` with the map as a picture and
`attention` where the model has maps of words.
"""

from __future__ import annotations

import base64
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from .serve_ask import DRAWS, Ask
from .serve_rank import between, ranked

Tell = Callable[[dict[str, Any]], None]
Check = Callable[[], None]


def classify(model: Any, clip: Any, ask: Ask, photo: np.ndarray, tell: Tell, check: Check) -> None:
    """Tell the race or the progress, the answer, and that of CLIP.

    Args:
        model: A loaded diffusion model.
        clip: A loaded CLIP model, or None.
        ask: The question.
        photo: uint8 `[h, w, 3]`.
        tell: Takes events; what it raises ends the work.
        check: Called often; what it raises ends the work.

    Raises:
        InputError: words or a method that the model cannot serve.
    """
    from ..methods import make, method_class

    tell({"event": "working", "model": ask.model, "method": ask.method})
    draws = method_class(ask.method).draw_arguments[-1]
    options: dict[str, Any] = {"seed": ask.seed, draws: ask.draws}
    if ask.template:  # one prompt of cross-attention holds several words, each in the same form
        options["form" if ask.method == "cross-attention" else "template"] = ask.template
    classifier = make(ask.method, model, options)
    fit(classifier, ask.words, tell)
    began, done = time.perf_counter(), 0
    total = classifier.count_evals(len(ask.words))

    def progress(n: int) -> None:
        nonlocal done
        check()
        done += n
        tell({"event": "progress", "evals": done, "of": total})

    def look(_: int, seen: Any) -> None:
        rows, draws = between(classifier, seen), int(seen.draws.max())
        tell({"event": "race", "rows": rows, "draws": draws, "left": len(seen.alive)})

    if ask.method == "race":
        classifier.watched(look)
    tell(ranked(classifier, photo, progress, began))
    if clip is not None:
        check()
        tell(_beside(clip, ask, photo))


def fit(classifier: Any, words: list[str], tell: Tell) -> None:
    """Fit, and tell what the classifier warns about the words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        classifier.fit(words)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            tell({"event": "note", "text": str(warning.message)})


def _beside(clip: Any, ask: Ask, photo: np.ndarray) -> dict[str, Any]:
    from ..methods.clip import CLIP
    from ..prompts import unknown_words

    began = time.perf_counter()
    if all(unknown_words(clip, word) for word in ask.words):
        return {"event": "clip", "error": f"{clip.name} never saw any of these words."}
    try:
        found = CLIP(clip, template=ask.template)
        notes: list[str] = []
        fit(found, ask.words, lambda event: notes.append(event["text"]))
        return ranked(found, photo, lambda _: None, began) | {"event": "clip", "notes": notes}
    except InputError as error:  # it may not know the words, which takes nothing away
        return {"event": "clip", "error": str(error)}


def explain(model: Any, ask: Ask, photo: np.ndarray, tell: Tell, check: Check) -> None:
    """Tell the map of the first word against the second, then where the model looks for each.

    Args:
        model: See `classify`.
        ask: The question, with two words.
        photo: See `classify`.
        tell: See `classify`.
        check: See `classify`.
    """
    from ..images import fit_square
    from ..methods.elbo import ELBO
    from ..methods.explain import explain as explained
    from .explain import SHOWN
    from .why import picture

    def progress(_: int) -> None:
        check()
        tell({"event": "progress"})

    draws = ask.draws if ask.method in ("race", "elbo") else DRAWS["elbo"][0]
    classifier = ELBO(model, draws=draws, seed=ask.seed, template=ask.template)
    fit(classifier, ask.words, tell)
    first, second = ask.words
    scores = classifier.scores([photo], progress=progress)
    proba = [float(p) for p in classifier.probabilities(scores)[0]]
    found = explained(classifier, [photo], [(first, second)], progress)[0]
    side = max(classifier.backbone_.image_size, min(photo.shape[:2]))
    shown = fit_square(photo, min(SHOWN, side))
    drawn = _embedded(lambda file: picture(found, shown, (proba[0], proba[1]), file))
    tell({"event": "why", "picture": drawn, "alt": describe(found), "evals": found.evals})
    if model.attention:
        tell(_attention(model, ask, photo, shown, check))


def _attention(
    model: Any, ask: Ask, photo: np.ndarray, shown: np.ndarray, check: Check
) -> dict[str, Any]:
    """The `attention` event: a picture with a map for each word, and where each is strongest."""
    from .why import attention_picture, looking

    check()
    try:
        with warnings.catch_warnings():  # the map of errors told what is odd about the words
            warnings.simplefilter("ignore", UserWarning)
            looks = looking(model, ask.words, ask.seed)
        maps = looks.heat_maps([photo])[0]
    except InputError as error:  # words that do not fit one prompt take nothing away
        return {"event": "attention", "error": str(error)}
    drawn = _embedded(lambda file: attention_picture(maps, ask.words, shown, file))
    places = (f"for {w} at the {place(m)}" for w, m in zip(ask.words, maps, strict=True))
    evals = looks.count_evals(len(ask.words))
    alt = f"The model looks most {' and '.join(places)}."
    return {"event": "attention", "picture": drawn, "alt": alt, "evals": evals}


def _embedded(draw: Callable[[io.BytesIO], None]) -> str:
    """A PNG as an address that holds all of it."""
    draw(file := io.BytesIO())
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def describe(found: Any) -> str:
    """The map in words, for those who do not see it."""
    return (
        f"The photo speaks most for {found.first} at the {place(found.difference)}, and most for "
        f"{found.second} at the {place(-found.difference)}."
    )


def place(values: np.ndarray) -> str:
    """Where a map `[h, w]` is largest, such as "top left"."""
    h, w = values.shape
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    rows, columns = ("top", "middle", "bottom"), ("left", "centre", "right")
    return f"{rows[int(3 * y // h)]} {columns[int(3 * x // w)]}"

"""Repositories of the Hugging Face hub, fetched into its cache as far as a model needs them."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..reach import SECONDS, ask, hub_client, is_away, trouble
from .cards import Card, cards
from .checkpoint import family_of_index
from .family import Family, family_named

OTHERS = ("*.fp16.*", "*.bf16.*", "*non_ema*", "*.fp16-*", "*.bf16-*")


def fetch_card(card: Card, allow_pickle: bool = False) -> Path:
    """Folder of a card's repository, fetched; mirrors are tried in turn.

    What stands against fetching it is found out by one question, and the cache is looked into.

    Raises:
        InputError: out of reach, gated, or not there, with the cause of the first.
    """
    first: Exception | None = None
    against: Exception | None = None
    for repository in [card.source, *card.mirrors]:
        if against is None or not is_away(against):
            against = ask("model", repository, card.revision)
        try:
            with hub_client(cached=against is not None):
                return fetch(repository, card.revision, card.variant, allow_pickle)
        except InputError:
            raise
        except Exception as error:  # the hub client raises a dozen types for "not there"
            first = first or against or error
    assert first is not None
    raise InputError(_why(card, first)) from None


def fetch(repository: str, revision: str | None, variant: str | None, allow_pickle: bool) -> Path:
    """Folder of a repository's needed files in the hub's cache.

    Raises:
        InputError: a pipeline that is not supported.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        index = hf_hub_download(
            repository, "model_index.json", revision=revision, etag_timeout=SECONDS
        )
        family = family_of_index(Path(index), repository)
    except EntryNotFoundError as error:
        here = type(error).__name__ == "LocalEntryNotFoundError"
        if here and not _is_cached_clip(repository, revision):
            raise
        family = family_named("clip")
    folder = ""
    for which in dict.fromkeys([variant, "fp16"]):
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=_wanted(family, which, allow_pickle),
            ignore_patterns=list(OTHERS) if which is None else None,
            etag_timeout=SECONDS,
        )
        needed = [part for part in family.weighted if part not in family.optional]
        if all(_has_weights(Path(folder), part, family) for part in needed):
            break
    return Path(folder)


def _is_cached_clip(repository: str, revision: str | None) -> bool:
    """Whether the cache has a repository without `model_index.json`, as CLIP's are."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision or "main")
    return isinstance(found, str)


def _has_weights(folder: Path, part: str, family: Family) -> bool:
    where = folder if family.name == "clip" else folder / part
    return any(where.glob("*.safetensors")) or any(where.glob("*.bin"))


def _wanted(family: Family, variant: str | None, allow_pickle: bool) -> list[str]:
    kinds = ["*.json", "*.txt", "*.model", "*.jinja"]
    weights = [f"*.{variant}*.safetensors" if variant else "*.safetensors"]
    weights += ["*.bin"] if allow_pickle else []
    if family.name == "clip":
        return [*kinds, *weights, "card.yaml"]
    every = [f"{part}/{kind}" for part in family.parts for kind in kinds]
    every += [f"{part}/{kind}" for part in family.weighted for kind in weights]
    return ["model_index.json", "card.yaml", *every]


def _why(card: Card, error: BaseException) -> str:
    """Why a card's repository could not be fetched, and what helps where the hub is away."""
    from huggingface_hub.constants import HF_HUB_CACHE

    why = trouble(card.source, error, card.revision)
    if not is_away(error):
        return why
    bundled = ", ".join(c.name for c in cards().values() if c.bundled)
    folder = f"models--{card.source.replace('/', '--')}"
    return (
        f"{why} Run diffzero fetch {card.name} on a machine that reaches the hub, and copy the "
        f"folder {folder} of its cache into {HF_HUB_CACHE} here; or use a bundled model "
        f"({bundled}) or a local folder."
    )

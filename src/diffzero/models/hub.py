"""Repositories of the Hugging Face hub, fetched into its cache as far as a model needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..reach import SECONDS, hub_or_cache
from .cards import Card, cards
from .checkpoint import read_json
from .family import Family, family_named, family_of_pipeline

OTHERS = ("*.fp16.*", "*.bf16.*", "*non_ema*", "*.fp16-*", "*.bf16-*")


def fetch_card(card: Card, allow_pickle: bool = False) -> Path:
    """Folder of a card's repository, fetched; mirrors are tried in turn.

    Raises:
        InputError: out of reach, gated, or not there, with the cause of the first.
    """
    first: Exception | None = None
    with hub_or_cache():
        for repository in [card.source, *card.mirrors]:
            try:
                return fetch(repository, card.revision, card.variant, allow_pickle)
            except InputError:
                raise
            except Exception as error:  # the hub client raises a dozen types for "not there"
                first = first or error
    raise InputError(_why(card.source, first)) from None


def fetch(repository: str, revision: str | None, variant: str | None, allow_pickle: bool) -> Path:
    """Folder of a repository's needed files in the hub's cache.

    Raises:
        InputError: a pipeline that is not supported.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        index = Path(
            hf_hub_download(
                repository, "model_index.json", revision=revision, etag_timeout=SECONDS
            )
        )
        family = family_of_pipeline(str(read_json(index).get("_class_name", "")), repository)
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
    kinds = ["*.json", "*.txt", "*.model"]
    weights = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    if family.name == "clip":
        return [*kinds, weights, *(["*.bin"] if allow_pickle else []), "card.yaml"]
    found = ["model_index.json", "card.yaml"]
    for part in family.parts:
        found += [f"{part}/{kind}" for kind in kinds]
        if part in family.weighted:
            found += [f"{part}/{weights}", *([f"{part}/*.bin"] if allow_pickle else [])]
    return found


def _why(source: str, error: BaseException | None) -> str:
    """One sentence on why a repository could not be fetched."""
    seen: Any = error
    names = []
    while seen is not None:
        names.append(f"{type(seen).__name__} {seen}".lower())
        seen = seen.__cause__ or seen.__context__
    said = " ".join(names)
    if "gated" in said:
        return (
            f"{source} is given out only to those who accepted its licence. Accept it on "
            f"https://huggingface.co/{source}, run: hf auth login, and try again."
        )
    if any(word in said for word in ("repositorynotfound", "401 ", "404 ", "revisionnotfound")):
        return (
            f"The hub has no {source}, or not for you. Check the name and the revision; for a "
            "private repository run: hf auth login."
        )
    if "hfvalidation" in said:
        return f"{source!r:.200} is no hub id; they have the form owner/name."
    bundled = ", ".join(c.name for c in cards().values() if c.bundled)
    return (
        f"{source} could not be fetched from the hub: it is out of reach, and its cache does not "
        f"hold the model ({type(error).__name__}). Without a network use a bundled model "
        f"({bundled}) or a local folder."
    )

"""The hub, asked once with little patience, and what it means when it gives nothing."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import said

SECONDS = 5.0  # that the hub has to answer before it counts as out of reach


def ask(kind: str, name: str, revision: str | None = None) -> Exception | None:
    """Ask the hub for a repository, before its client would ask again and again for a minute.

    Args:
        kind: `model` or `dataset`.
        name: Of the repository.
        revision: A branch, a tag or a commit; the main branch if None.

    Returns:
        What stands against fetching it, for `trouble` to put into words; None if nothing does.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except Exception as error:  # the client and its HTTP library raise a dozen types
        return error
    return None


@contextmanager
def hub_client(cached: bool) -> Iterator[None]:
    """The hub's client without its messages, which would drown the one sentence that counts.

    Args:
        cached: It asks its cache alone.
    """
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    places: list[Any] = [constants]
    if "datasets" in sys.modules:
        places.append(sys.modules["datasets"].config)
    before = [place.HF_HUB_OFFLINE for place in places]
    logger.setLevel(logging.CRITICAL)
    for place in places:
        place.HF_HUB_OFFLINE = cached or place.HF_HUB_OFFLINE
    try:
        yield
    finally:
        logger.setLevel(level)
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def is_away(error: BaseException) -> bool:
    """Whether the hub said nothing about the repository: no connection, or a failure of its own.

    Then another repository need not be asked for, and a copy from elsewhere helps.
    """
    status = _status(error)
    return not (_names(error) & _SAID or _unwritable(error)) and (
        status is None or status == 429 or status >= 500
    )


def trouble(name: str, error: BaseException, revision: str = "main") -> str:
    """Why a repository could not be fetched, and what to do where the hub itself is there.

    Args:
        name: Of the repository.
        error: What its client raised, or an error around it.
        revision: That was asked for.

    Returns:
        One or two sentences.
    """
    from huggingface_hub.constants import ENDPOINT

    names, status = _names(error), _status(error)
    if (file := _unwritable(error)) is not None:
        return (
            f"{name} could not be fetched: {file.filename}: cannot be written "
            f"({os.strerror(file.errno or 0)}). Make room, or let HF_HOME name another folder."
        )
    if "GatedRepoError" in names:
        return (
            f"{name} is given out only to those who accepted its licence. Accept it on "
            f"{ENDPOINT}/{name}, run: hf auth login, and try again."
        )
    if "HFValidationError" in names:
        return f"{name!r:.200} is no hub id; they have the form owner/name."
    if "RevisionNotFoundError" in names:
        return f"The hub has {name}, but no revision {revision!r} of it. Check the revision."
    if "RepositoryNotFoundError" in names or status in (401, 403, 404):
        return (
            f"The hub has no {name}, or not for you. Check the name; for a private repository "
            "run: hf auth login, and if HF_TOKEN is set, see that it is right."
        )
    return f"{name} could not be fetched: {_away(error, names, status, ENDPOINT)}."


def state(repository: str) -> str:
    """Whether anything can be fetched, in words.

    Args:
        repository: A model that the hub is asked for.
    """
    from huggingface_hub.constants import ENDPOINT

    error = ask("model", repository)
    if error is None or not is_away(error):
        return f"{ENDPOINT} answers"
    return f"nothing can be fetched: {_away(error, _names(error), _status(error), ENDPOINT)}"


def _away(error: BaseException, names: set[str], status: int | None, address: str) -> str:
    """What is wrong where nothing is said of the repository."""
    if status == 429:
        return f"{address} takes no more requests from here for some minutes (429)"
    if status is not None:
        return f"{address} failed ({status}), which passes as a rule; try again later"
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, and its cache lacks files of it"
    if names & {"TimeoutException", "Timeout", "TimeoutError"}:
        return f"{address} did not answer in time"
    text = " ".join(str(one) for one in _chain(error))
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            f"the certificate of {address} is not trusted here; where a proxy reads along, name "
            "the file of its certificate in SSL_CERT_FILE"
        )
    if names & {"JSONDecodeError", "FileMetadataError"}:
        return f"what answers at {address} is no hub, but perhaps a proxy or a page to log in"
    if names & {"ConnectError", "NetworkError", "ConnectionError", "ProxyError", "gaierror"}:
        return f"{address} is out of reach"
    return said(error)


_SAID = {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _unwritable(error: BaseException) -> OSError | None:
    """The file that could not be written, if that is what happened; connections have no name."""
    files = (one for one in _chain(error) if isinstance(one, OSError) and one.filename)
    return next((one for one in files if one.errno is not None), None)


def _names(error: BaseException) -> set[str]:
    """Names of its kinds: of whichever HTTP library the client is built on."""
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _status(error: BaseException) -> int | None:
    """Of the answer that it is about."""
    answers = (getattr(one, "response", None) for one in _chain(error))
    return next((answer.status_code for answer in answers if answer is not None), None)

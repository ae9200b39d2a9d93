"""Whether the hub can be reached, found out in seconds."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SECONDS = 5.0  # that the hub has to answer before it counts as out of reach


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """What is asked of the hub within the block is asked of its cache, if the hub is out of reach.

    The hub's client would try again and again, for half a minute and more, and say so each time.
    """
    from huggingface_hub import constants

    places: list[Any] = [constants]
    if "datasets" in sys.modules:
        places.append(sys.modules["datasets"].config)
    before = [place.HF_HUB_OFFLINE for place in places]
    if not any(before) and not in_reach(constants.ENDPOINT):
        for place in places:
            place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def in_reach(address: str) -> bool:
    """Whether a connection to a server, or to the proxy before it, can be made within seconds."""
    wanted = urlsplit(address)
    proxy = getproxies().get(wanted.scheme) or getproxies().get("all")
    if proxy and not proxy_bypass(wanted.hostname or ""):
        wanted = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = wanted.port or (443 if wanted.scheme == "https" else 80)
    try:
        socket.create_connection((wanted.hostname or "", port), SECONDS).close()
    except (OSError, ValueError):
        return False
    return True

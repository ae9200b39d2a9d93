"""`diffzero serve`: a page to drop photos on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import InputError
from ..options import short
from . import options
from .console import note, say

LOCAL = {"127.0.0.1", "localhost", "::1"}
FIRST = "tiny-sd"  # of the pickers: it answers whoever changes nothing


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Card name, folder or hub id to offer; repeatable. Bundled if unset."),
    ] = None,
    clip: Annotated[
        str, typer.Option(help="CLIP model that answers beside; an empty name for none.")
    ] = "tiny-clip",
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's are open to all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
) -> None:
    """Serve a page: drop photos, type words, see the answer, its cost and why."""
    models = model or bundled()
    note(f"loading {models[0]} ...")
    server = make_server(models, clip or None, host, port, device, dtype)
    say(f"http://{'localhost' if host in LOCAL else host}:{server.server_address[1]}/")
    if host not in LOCAL:
        note("warning: everyone who reaches this address can use the page; it asks no password.")
    note("Ctrl-C stops it.")
    try:
        server.serve_forever()
    finally:
        server.server_close()


def bundled() -> list[str]:
    """Names of the bundled diffusion models, `FIRST` first."""
    from ..models.cards import cards

    names = [c.name for c in cards().values() if c.bundled and c.family != "clip"]
    return sorted(names, key=lambda name: name != FIRST)


def make_server(
    models: list[str], clip: str | None, host: str, port: int,
    device: str = "auto", dtype: str | None = None,
) -> Any:  # fmt: skip
    """A server that listens, with models loaded when they are first asked for.

    Raises:
        InputError: an address that cannot be listened on; a first model that cannot be loaded.
    """
    from ..models.load import load
    from .serve_desk import Desk
    from .serve_http import Handler
    from .serve_server import Server

    desk = Desk(lambda name: load(name, device=device, dtype=dtype), clip)
    desk.ready(models[0])
    try:
        return Server((host, port), Handler, desk, models, LOCAL if host in LOCAL else None)
    except (OSError, TypeError, UnicodeError) as error:  # the last two: no name of a host
        what = getattr(error, "strerror", None) or "it is no address"
        raise InputError(
            f"--host {short(host)} --port {port} cannot be listened on ({what}). Is another "
            "server there? --port 0 takes a free one."
        ) from None

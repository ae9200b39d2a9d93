"""`diffzero serve`: a page to drop photos on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import InputError
from . import options
from .console import note, say

LOCAL = {"127.0.0.1", "localhost", "::1"}
BUNDLED = (
    "tiny-sd", "photos-sd", "tiny-flow", "tiny-if", "cifar10-ddpm", "cifar10-dit", "digits-ddpm"
)  # fmt: skip


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
    note(f"loading {(model or BUNDLED)[0]} ...")
    server = make_server(list(model or BUNDLED), clip or None, host, port, device, dtype)
    say(f"http://{'localhost' if host in LOCAL else host}:{server.server_address[1]}/")
    if host not in LOCAL:
        note("warning: everyone who reaches this address can use the page; it asks no password.")
    note("Ctrl-C stops it.")
    try:
        server.serve_forever()
    finally:
        server.server_close()


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
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror}). Is another "
            "server there? --port 0 takes a free one."
        ) from None

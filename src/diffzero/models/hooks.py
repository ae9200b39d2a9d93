"""Hooks that belong to one thread, so that a loaded model may be used from several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor


@contextmanager
def output_replaced(module: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this holds, what `module` gives is changed, for calls from this thread alone."""
    own = get_ident()

    def hook(module: Any, inputs: tuple, output: Tensor) -> Tensor | None:
        return change(output) if get_ident() == own else None

    with module.register_forward_hook(hook):
        yield


@contextmanager
def output_seen(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """While this holds, what `module` gives is listed, for calls from this thread alone."""
    own, found = get_ident(), []

    def hook(module: Any, inputs: tuple, output: Any) -> None:
        if get_ident() == own:
            found.append(output[0] if isinstance(output, tuple) else output)

    with module.register_forward_hook(hook):
        yield found


@contextmanager
def inputs_seen(
    modules: dict[str, Any], see: Callable[[str, Any, tuple, dict[str, Any]], None]
) -> Iterator[None]:
    """While this holds, `see(name, module, args, kwargs)` is called before every run of a module
    from this thread."""
    own = get_ident()

    def hook_of(name: str) -> Callable[..., None]:
        # torch registers a hook and that it takes kwargs one after the other, so that a thread
        # which runs in between calls it without them.
        def hook(module: Any, args: tuple, kwargs: dict[str, Any] | None = None) -> None:
            if get_ident() == own:
                see(name, module, args, kwargs or {})

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(hook_of(name), with_kwargs=True)
            stack.enter_context(hook)
        yield

"""A compiled network that is trusted with a training only once its gradients were looked at.

On a CPU, torch 2.13's compiler answers rightly with `cifar10-ldm`'s U-Net under bfloat16 and gives
zeros as the gradients of 66 of its weights, all of its coarse level, without a word: an hour of
such training took its accuracy from 79.3 % [74.4, 83.5] of 300 held-out images to 69.3 % [63.9,
74.3] while the loss rose from 0.654 to 0.657. So the first batch goes
both ways. With y the answer, r random numbers of its shape and theta_i each weight, the gradients

    g_i = d <r, y> / d theta_i

of the compiled network must not be zero where those of the network itself are not, and all
together must be near them: |g' - g| <= MOST |g|.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

MOST = 0.1  # of bfloat16's own rounding it is a few hundredths
LEAST = 1e-4  # of all: less is rounding, as of keys' biases, which no answer hangs on


class Compiled:
    """`torch.compile` of a module, or the module itself where the compiler's gradients are wrong.

    What has gradients of zero itself, as behind weights that begin at zero, cannot be checked.

    Args:
        module: Its answer is a tensor, or has one as `sample`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.network: Any = torch.compile(module)
        self.checked = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The module's answer. The first call that may be followed by a backward pass checks.

        Warns:
            RuntimeWarning: the compiled network is not used.
        """
        if not self.checked and torch.is_grad_enabled():
            self.checked = True
            if wrong := self._wrong(args, options):
                warnings.warn(
                    f"torch.compile gives wrong gradients here ({wrong}): the network trains "
                    f"without it, more slowly. torch is {torch.__version__}.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.network = self.module
        return self.network(*args, **options)

    def _wrong(self, args: Any, options: Any) -> str:
        """What is wrong with the compiler's gradients, or nothing."""
        own, theirs = (_gradients(f, self.module, args, options)
                       for f in (self.module, self.network))  # fmt: skip
        size = _norm(list(own.values()))
        lost = [k for k, g in own.items() if _norm([g]) > LEAST * size and not theirs[k].any()]
        if lost:
            return f"zeros for {len(lost)} of {len(own)} weights, as {lost[0]}"
        apart = _norm([theirs[k] - g for k, g in own.items()])
        return "" if apart <= MOST * size else f"off by {apart / size:.0%}"


def _gradients(function: Any, module: nn.Module, args: Any, options: Any) -> dict[str, Tensor]:
    """`g_i` by the names of the weights that learn; zeros where there is none."""
    y = function(*args, **options)
    y = y if isinstance(y, Tensor) else y.sample
    r = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
    named = {k: p for k, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(y, list(named.values()), r, allow_unused=True)
    return {
        k: torch.zeros_like(p) if g is None else g
        for (k, p), g in zip(named.items(), found, strict=True)
    }


def _norm(parts: list[Tensor]) -> float:
    return float(torch.stack([p.float().square().sum() for p in parts]).sum().sqrt())

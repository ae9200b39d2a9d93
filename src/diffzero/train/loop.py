"""A training loop with a time budget: it resumes, keeps an average of the weights, and stops.

The learning rate follows the share of the budget that is spent, so that whatever the budget and
the machine, training ends with the rate at zero.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import InputError
from . import parallel

WARMUP_STEPS = 200
STRIDE = 1_000_003  # between the seeds of processes
QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b and c of Jordan et al.


@cache
def bfloat16_pays(width: int = 512) -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones; tried once."""

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(width, width, dtype=dtype)
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            a @ a
            taken.append(time.perf_counter() - began)
        return min(taken)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)


def attention_of_few_tokens(kind: str) -> AbstractContextManager[None]:
    """Attention as plain products on a CPU, whose fused kernel is slow backwards on few tokens."""
    return sdpa_kernel(SDPBackend.MATH) if kind == "cpu" else nullcontext()


class Ema:
    """Exponential moving average of a module's parameters.

    `decay = min(max_decay, (1 + n) / (10 + n))`, so that early averages are not the initial noise.
    """

    def __init__(self, module: nn.Module, max_decay: float = 0.999) -> None:
        self.max_decay, self.n = max_decay, 0
        self.module = module
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights."""
        self.n += 1
        decay = min(self.max_decay, (1 + self.n) / (10 + self.n))
        live = self.module.state_dict()
        names = [k for k, v in live.items() if v.is_floating_point()]
        # One fused call: hundreds of small ones would rival the training step on a GPU.
        torch._foreach_lerp_([self.shadow[k] for k in names], [live[k] for k in names], 1 - decay)

    def copy_to_module(self) -> None:
        """Replace the module's weights by their average."""
        self.module.load_state_dict(self.shadow)


def has_begun(out: Path, *stages: str) -> bool:
    """Whether anything was trained in a folder, and not only set up.

    Args:
        out: The folder of the model.
        stages: Names of stages to ask about; all if none is given.
    """
    files = [(out / ".train" / f"{stage}.pt") for stage in stages]
    return any(map(Path.exists, files)) if files else any((out / ".train").glob("*.pt"))


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other processes from training in the same folder meanwhile.

    Args:
        out: The folder of the model, made if missing.

    Raises:
        InputError: another process trains there.
    """
    from filelock import FileLock, Timeout

    states = out / ".train"
    states.mkdir(parents=True, exist_ok=True)
    lock = FileLock(states / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{out}: another process is training in this folder. Wait for it, or give another "
            "--out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def claim(out: Path, facts: dict[str, Any], write: bool = True) -> None:
    """Keep what a training was started with; resuming with something else would mix two models.

    Args:
        out: The folder of the model.
        facts: What JSON can hold.
        write: Whether to keep them; of several processes the first does, and all check.

    Raises:
        InputError: training in this folder was started with others.
    """
    path = out / ".train" / "started.json"
    if path.exists() and has_begun(out):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(
                f"{path}: damaged, so that what was trained here is unknown. Give another folder, "
                "or delete the file if you are sure of the arguments."
            ) from None
        if before.get("preset", "") is None:  # older versions left it to the device
            before["preset"] = facts.get("preset")
        differ = [key for key, value in facts.items() if before.get(key) != value]
        if differ:
            said = "; ".join(f"{k} {before.get(k)!r}, not {facts[k]!r}" for k in differ)
            raise InputError(
                f"{out}: training here was started with {said}. Resume with the same, or give "
                "another folder."
            )
    if not write:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=1) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        draft = path.with_suffix(".partial")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)


def fit(
    module: nn.Module,
    loss: Callable[[torch.Generator], torch.Tensor],
    state_path: Path,
    minutes: float,
    *,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
    ema_decay: float = 0.999,
    log: Callable[[str], None] = print,
    save_every: float = 120.0,
    muon: str | None = None,
    warmup: int = WARMUP_STEPS,
    level: float = 0.0,
) -> dict[str, float]:
    """Minimise `loss` for `minutes` of wall time, then leave the averaged weights in `module`.

    In several processes (`parallel.group`) each draws batches of its own, the first saves, and all
    end with the same weights.

    Args:
        module: What is trained; put everything that learns into it.
        loss: Draws a batch with the generator it is given and returns a scalar.
        state_path: Where progress is kept; when the file exists, training goes on from it.
        minutes: The budget, resumed time included.
        lr: Peak of the learning rate.
        weight_decay: AdamW's.
        seed: Of the batches.
        ema_decay: Largest decay of the weight average.
        log: Called with a line every 30 seconds.
        save_every: Seconds between saves.
        muon: Matrices and kernels whose names hold this word learn with Muon instead of AdamW.
        warmup: Steps until the rate is at its peak.
        level: Share of the budget, from 0 to below 1, that the rate stays at its peak before
            its cosine begins; trainings of many hours that are carried on want most of it.

    Returns:
        `steps`, `seconds` and the last smoothed `loss`.
    """
    optimizers = _optimizers(module, weight_decay, muon)
    run = _Run(module, optimizers, Ema(module, ema_decay), seed)
    if state_path.exists():
        run.read(state_path)
        if minutes:
            log(
                f"{state_path.stem} resumed at step {run.step}, {run.elapsed / 60:.1f} of "
                f"{minutes:g} min"
            )
    # Of the compiler, on a line of diffusers that no recipe's answer hangs on.
    warnings.filterwarnings("ignore", "Dynamo detected a call to", UserWarning)
    budget, place = minutes * 60, next(module.parameters()).device
    last_save = last_log = run.elapsed
    module.train()
    while run.elapsed < budget:
        started = time.perf_counter()
        warm = min(1, (run.step + 1) / warmup)
        run.move(loss, lr * warm * _cosine((run.elapsed / budget - level) / (1 - level)))
        run.elapsed += parallel.agreed(time.perf_counter() - started, place)
        if run.elapsed - last_log > 30:
            last_log = run.elapsed
            log(
                f"step {run.step}  {run.elapsed / 60:.1f} of {minutes:g} min  "
                f"loss {run.smooth:.4f}"
            )
        if run.elapsed - last_save > save_every:
            last_save = run.elapsed
            run.save(state_path)
    run.save(state_path)
    parallel.barrier()
    run.ema.copy_to_module()
    module.eval()
    return {"steps": run.step, "seconds": run.elapsed, "loss": run.smooth}


def _optimizers(
    module: nn.Module, weight_decay: float, muon: str | None
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for matrices and kernels of convolutions whose names hold the word `muon`.

    References:
        Jordan et al., Muon, 2024. https://kellerjordan.github.io/posts/muon/
        Liu et al., Muon is Scalable for LLM Training, 2025. https://arxiv.org/abs/2502.16982
    """
    named = dict(module.named_parameters())
    chosen = {k for k, p in named.items() if muon is not None and muon in k and p.ndim in (2, 4)}
    rest = [p for k, p in named.items() if k not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=weight_decay)
    ]
    if chosen:
        found.append(Muon([named[k] for k in sorted(chosen)], weight_decay))
    return found


class Muon(torch.optim.Optimizer):
    """Muon on matrices, and on kernels of convolutions, each as a matrix `[out, in * h * w]`.

    The step is the momentum with all its singular values near 1, times `0.2 sqrt(max(rows,
    columns))`, which gives it the root mean square of AdamW's (Liu et al. 2025). torch's own
    refuses kernels, and multiplies in bfloat16 where that takes thirty times as long.

    Args:
        weights: `[out, in]` or `[out, in, h, w]` each.
        weight_decay: Times the rate, of the weights a step.
        momentum: Nesterov's.
    """

    def __init__(
        self, weights: list[nn.Parameter], weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": 1e-3, "decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                mean = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                wanted = weight.grad.lerp(mean, group["momentum"])
                update = orthogonalised(wanted.flatten(1)).view_as(wanted)
                size = 0.2 * math.sqrt(max(len(wanted), wanted[0].numel()))
                weight.mul_(1 - group["lr"] * group["decay"]).sub_(
                    update, alpha=group["lr"] * size
                )


def orthogonalised(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The matrix with its singular values brought to between about 0.7 and 1.2.

    Jordan et al.'s quintic, `X <- a X + (b A + c A^2) X` with `A = X X^T`; in bfloat16 where that
    is faster, since the values need not be exact, and else in float32 on the smaller side.

    Args:
        matrix: `[rows, columns]`.
        steps: How many times.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / (x.norm() + 1e-7)
    lower = not x.is_cuda and parallel.as_first(bfloat16_pays())
    x = _quintic(x.bfloat16(), steps) if lower else _quintic_on_smaller_side(x, steps)
    return (x.T if tall else x).to(matrix.dtype)


def _quintic(x: torch.Tensor, steps: int) -> torch.Tensor:
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _quintic_on_smaller_side(x: torch.Tensor, steps: int) -> torch.Tensor:
    """The same with the fewest products, for float32.

    A step is `X <- P X` with `P = a I + b A + c A^2`. The P of all steps are polynomials of the
    first A, so that they commute, and A itself becomes `P A P`: all of it is done on the smaller
    side of the matrix alone, and X is multiplied once, by their product. On kernels of
    convolutions that is less than half of the products. In bfloat16 it would go astray: on square
    matrices singular values of up to 3.6 came out.
    """
    gram = x @ x.T
    a, b, c = QUINTIC
    product = one = torch.eye(len(x), device=x.device)
    for _ in range(steps):
        p = a * one + b * gram + c * gram @ gram
        product = p @ product
        gram = p @ gram @ p
    return product @ x


class _Run:
    """One training: everything that a file of progress keeps."""

    def __init__(
        self, module: nn.Module, optimizers: list[torch.optim.Optimizer], ema: Ema, seed: int
    ) -> None:
        self.module, self.optimizers, self.ema = module, optimizers, ema
        self.generator = torch.Generator().manual_seed(seed + STRIDE * parallel.rank())
        self.step, self.elapsed, self.smooth = 0, 0.0, float("nan")

    def move(self, loss: Callable[[torch.Generator], torch.Tensor], lr: float) -> None:
        """One step against the gradient of the loss."""
        value = loss(self.generator)
        self.module.zero_grad(set_to_none=True)
        value.backward()
        parallel.average_gradients(self.module.parameters())
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        self.ema.update()
        self.step += 1
        number = float(value.detach())
        self.smooth = number if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * number

    def read(self, path: Path) -> None:
        """Go on from a file."""
        # Saved on one GPU, read on another: all is copied to where it belongs.
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.module.load_state_dict(state["module"])
        kept = state["optimizer"]  # one dictionary in files of older versions
        for optimizer, own in zip(
            self.optimizers, kept if isinstance(kept, list) else [kept], strict=True
        ):
            optimizer.load_state_dict(own)
        for name, mean in state["ema"].items():
            self.ema.shadow[name].copy_(mean)
        self.ema.n = state["ema_n"]
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.smooth = state["smooth"]
        self.generator.set_state(state["generator"])
        if parallel.rank():  # the file holds the first process's
            seed = int(torch.randint(2**62, (), generator=self.generator))
            self.generator.manual_seed(seed + STRIDE * parallel.rank())

    def save(self, path: Path) -> None:
        """Replace the file in one move, so that a stop while it is written loses nothing; of
        several processes the first does."""
        if parallel.rank():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        state = {
            "module": self.module.state_dict(),
            "optimizer": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.shadow,
            "ema_n": self.ema.n,
            "generator": self.generator.get_state(),
            "step": self.step,
            "elapsed": self.elapsed,
            "smooth": self.smooth,
        }
        try:
            with partial.open("wb") as file:  # given a path torch would not tell a full disk
                torch.save(state, file)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error.__context__, OSError) and not isinstance(error, OSError):
                raise error.__context__ from None
            raise
        partial.replace(path)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))

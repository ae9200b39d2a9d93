"""Textual inversion (Algorithm 6): learn a word for the image, and take the class nearest to it.

A new token, with input embedding v, stands where the label stands in the prompt. With everything
frozen but v, the network's own loss descends on the image and its augmentations,

    v* = argmin_v  E ||eps - eps_hat(x_t, t, text(prompt(v)))||^2,    x_0 among the augmentations,

and the text encoder's last hidden state at the token's place is compared with that of each class
at its own last token (it has read the others) in the same prompt,

    logit_c = -||psi(v*) - psi(c)||_2.

References:
    Gal et al., An Image is Worth One Word, 2022. https://arxiv.org/abs/2208.01618
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..classifier import Progress, Scores
from ..errors import InputError
from ..images import affine, to_tensor
from ..noise import image_key, jitter, quantiles
from ..scoring import Times, noised
from .common import DiffusionMethod, text_backbone

SCALE = 1024.0  # of the loss while it is differentiated


@dataclass(frozen=True)
class Learned:
    """Tokens learned from images.

    Attributes:
        vectors: Input embeddings of each image's token after the checked numbers of steps,
            float32 `[checks, b, d]`.
        checks: Those numbers of steps.
        losses: Mean squared error an element in each step, float64 `[steps, b]`.
    """

    vectors: np.ndarray
    checks: tuple[int, ...]
    losses: np.ndarray


class TextualInversion(DiffusionMethod):
    """Learn one token from one image, then take the nearest class in the text encoder's space.

    Cost: `steps * draws` evaluations an image and as many vector-Jacobian products, whatever the
    number of classes.

    A logit is minus the distance between the states of the learned token and of the class.

    Args:
        backbone: A text-to-image backbone, or what `diffzero.load` takes.
        steps: Of Adam. The paper took 700.
        rate: Adam's. The paper took 5e-4, for embeddings of Stable Diffusion's size.
        draws: Noise draws a step, each on one of the augmentations.
        augmentations: Views of the image beside itself: rotated, scaled and shifted a little.
        flip: Mirror half of the views; wrong for text and digits.
        start: `mean` starts from the mean embedding of the classes' tokens; any other word or
            words from theirs. A file written by `save_token` starts from that token.
        pool: `token` compares the states at the token, `eos` those at the end of the prompt.
        t_range: `(min, max)` of t; `[t_min, 1]` if None.
        template: One prompt with `{}` for the label; the backbone's own if None.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: Rows a network call, shared by the images that learn at the same time.
        value_range: See `Classifier`.
    """

    method = "textual-inversion"

    def __init__(
        self,
        backbone: Any = "tiny-sd",
        *,
        steps: int = 100,
        rate: float = 5e-3,
        draws: int = 4,
        augmentations: int = 7,
        flip: bool = False,
        start: str = "mean",
        pool: Literal["token", "eos"] = "token",
        t_range: tuple[float, float] | None = None,
        template: str | None = None,
        temperature: float | None = None,
        priors: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.backbone = backbone
        self.steps = steps
        self.rate = rate
        self.draws = draws
        self.augmentations = augmentations
        self.flip = flip
        self.start = start
        self.pool = pool
        self.t_range = t_range
        self.template = template
        self.temperature = temperature
        self.priors = priors
        self.seed = seed
        self.batch_size = batch_size
        self.value_range = value_range

    def count_evals(self, n_labels: int) -> int:
        """`steps * draws`."""
        return self.steps * self.draws

    def _check_options(self) -> None:
        self._check_choices(pool=("token", "eos"))
        self._check_at_least_one("steps", "draws")
        if self.augmentations < 0 or not self.rate > 0:
            raise InputError(
                f"augmentations must be at least 0 and rate positive; got {self.augmentations} "
                f"and {self.rate}."
            )
        self._times = Times(self.backbone_.schedule, "uniform", self.t_range)
        self._text = text_backbone(self.backbone_, self.method)
        before, after = (part.strip() for part in self.templates_[0].split("{}"))
        self._before, self._after = self._text.pieces([before, after])
        self._given = None if self.start == "mean" else self._read_start()

    def _fitted_temperature(self) -> float | None:
        """The card's, by evaluations, for settings that are the defaults but for their number."""
        fitted = self.backbone_.temperatures.get(self.method, {})
        changed = self._changed("steps", "draws")
        return None if changed else fitted.get(self.steps * self.draws)

    def _read_start(self) -> Tensor:
        """Where every image's token begins, float32 `[d]`, from a file or from words."""
        if not self.start.endswith(".safetensors"):
            if not self.start.strip():
                raise InputError("start is blank; give mean, a word, or a file of save_token.")
            return self._mean_vector([self.start])[0]
        vector = load_token(self.start)[1].to(self.backbone_.device).float()
        width = self._text.token_vectors(self._text.pieces(["a"])[0]).shape[1]
        if len(vector) != width:
            raise InputError(
                f"{self.start}: a token of {len(vector)} numbers; {self.backbone_.name} embeds "
                f"tokens in {width}. Use one that was learned with this model's text encoder."
            )
        return vector

    def _fit_classes(self) -> None:
        self._class_states = self._states(self.names_)

    def _states(self, labels: Sequence[str]) -> Tensor:
        """psi of each class, float64 `[k, d]`."""
        words = self._text.pieces(list(labels))
        cond = self._text.embed_tokens([self._before + w + self._after for w in words])
        return self._pooled(cond, [len(w) for w in words])

    def learned_states(self, vectors: Tensor) -> Tensor:
        """psi of learned tokens `[b, d]`, float64 `[b, d']`."""
        with torch.no_grad():
            return self._pooled(self._condition(vectors), [1] * len(vectors))

    def _pooled(self, cond: Any, lengths: list[int]) -> Tensor:
        states = self._text.text_states(cond).double()
        first, before, after = self._text.first_token, len(self._before), len(self._after)
        last = [first + before + n - 1 + (after + 1 if self.pool == "eos" else 0) for n in lengths]
        return states[torch.arange(len(last)), torch.tensor(last)]

    def _condition(self, vectors: Tensor) -> Any:
        """The prompt with each learned token in it."""
        stand_in = (self._before + self._after + self._text.pieces(["a"])[0])[0]
        row = [*self._before, stand_in, *self._after]
        n = len(vectors)
        return self._text.embed_tokens([row] * n, vectors, [len(self._before)] * n)

    def learn(
        self,
        images: Any,
        candidates: Sequence[Sequence[str]] | None = None,
        checks: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Learned:
        """Learn a token for each image.

        Args:
            images: As for `scores`.
            candidates: Words of each image, of which only `start="mean"` makes use.
            checks: Numbers of steps after which the tokens are kept; `steps` alone if None.
            progress: Called with evaluations.

        Raises:
            InputError: see `scores`.
        """
        stops = tuple(checks or [self.steps])
        if min(stops) < 0 or max(stops) < 1:
            raise InputError(f"checks are numbers of steps, the last at least 1; got {stops}.")
        loaded, labels = self._inputs(images, candidates)
        return self._learn(loaded, labels, stops, progress)

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        if labels is not None:
            self._check_candidates(labels)
        learned = self._learn(images, labels, (self.steps,), progress)
        logits = self.distances(learned.vectors[0], labels)
        cost = np.full(len(images), self.count_evals(0))
        return Scores(-logits, cost, cost.copy())

    def distances(self, vectors: np.ndarray, labels: list[list[str]] | None = None) -> np.ndarray:
        """`||psi(v) - psi(c)||` of tokens `[b, d]`, float64 `[b, k]`, infinite where there is no
        class.

        Raises:
            InputError: no classes fitted and none given.
        """
        if labels is None:
            self._check_fitted()
        psi = self.learned_states(torch.from_numpy(vectors).to(self.backbone_.device))
        if labels is None:
            return torch.cdist(psi, self._class_states).cpu().numpy()
        out = np.full((len(psi), max(map(len, labels))), np.inf)
        for row, own, line in zip(psi, labels, out, strict=True):
            line[: len(own)] = (self._states(own) - row).norm(dim=1).cpu().numpy()
        return out

    def _learn(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        checks: tuple[int, ...],
        progress: Progress | None,
    ) -> Learned:
        size = max(1, self._rows_a_call() // self.draws)
        parts = []
        for begin in range(0, len(images), size):
            part = images[begin : begin + size]
            words = [self.names_] * len(part) if labels is None else labels[begin : begin + size]
            views, keys = self._views(part), [image_key(self.seed, image) for image in part]
            parts.append(self._adam(views, keys, self._starts(words), checks, progress))
        return Learned(
            np.concatenate([p.vectors for p in parts], 1),
            checks,
            np.concatenate([p.losses for p in parts], 1),
        )

    def _starts(self, words: list[list[str]]) -> Tensor:
        """Where each image's token begins, float32 `[b, d]`."""
        if self.start == "mean":
            tables = {tuple(own): None for own in words}
            means = {own: self._mean_vector(list(own))[0] for own in tables}
            return torch.stack([means[tuple(own)] for own in words])
        assert self._given is not None
        return self._given.expand(len(words), -1).clone()

    def _mean_vector(self, words: list[str]) -> Tensor:
        """Mean input embedding of the words, each the mean of its tokens, `[1, d]`."""
        pieces = self._text.pieces(words)
        each = torch.stack([self._text.token_vectors(p).float().mean(0) for p in pieces])
        return each.mean(0, keepdim=True)

    def _views(self, images: list[np.ndarray]) -> Tensor:
        """`x_0` of each image and its augmentations, `[b, 1 + augmentations, *shape]`."""
        backbone, n = self.backbone_, self.augmentations
        pixels = to_tensor(images, backbone.image_size)
        views = pixels[:, None].repeat(1, 1 + n, 1, 1, 1)
        for i, image in enumerate(images) if n else ():
            key = image_key(self.seed, image)
            u = torch.from_numpy(np.stack([jitter(key, j) for j in range(n)]))
            turned = affine(views[i, 1:], u[:, 0] * 0.1, 1 + 0.1 * u[:, 1], 0.1 * u[:, 2:4])
            if self.flip:
                mirrored = u[:, 4] > 0
                turned[mirrored] = turned[mirrored].flip(-1)
            views[i, 1:] = turned
        with torch.no_grad():
            x_0 = backbone.encode(views.flatten(0, 1).to(backbone.device, backbone.dtype))
        return x_0.unflatten(0, (len(images), 1 + n))

    def _adam(
        self,
        views: Tensor,
        keys: list[int],
        start: Tensor,
        checks: tuple[int, ...],
        progress: Progress | None,
    ) -> Learned:
        """Adam acts on each number by itself, so images that share a batch learn as if alone."""
        vectors = start.clone().requires_grad_()
        adam = torch.optim.Adam([vectors], lr=self.rate)
        kept, losses = {0: start.float().cpu().numpy()}, []
        most = max(1, self._rows_a_call() // len(views))
        for step in range(max(checks)):
            numbers = np.arange(step * self.draws, (step + 1) * self.draws)
            vectors.grad, total = torch.zeros_like(vectors), np.zeros(len(views))
            for begin in range(0, self.draws, most):
                part = numbers[begin : begin + most]
                share = len(part) / self.draws
                with torch.enable_grad():
                    loss = self._loss_of(vectors, views, keys, part)
                    # Scaled, since a mean over thousands of elements is too small for fp16.
                    (slope,) = torch.autograd.grad(SCALE * loss.sum(), vectors)
                vectors.grad += slope * (share / SCALE)
                total += share * loss.detach().double().cpu().numpy()
            adam.step()
            losses.append(total)
            if step + 1 in checks:
                kept[step + 1] = vectors.detach().float().cpu().numpy().copy()
            if progress is not None:
                progress(self.draws * len(views))
        return Learned(np.stack([kept[c] for c in checks]), checks, np.stack(losses))

    def loss(self, vectors: Tensor, views: Tensor, keys: list[int], step: int) -> Tensor:
        """Mean squared error an element of each image's draws of a step, `[b]`.

        Args:
            vectors: `[b, d]`.
            views: `[b, views, *shape]`, encoded.
            keys: Randomness of each image.
            step: Its draws are numbers `step * draws` and on.
        """
        numbers = np.arange(step * self.draws, (step + 1) * self.draws)
        return self._loss_of(vectors, views, keys, numbers)

    def _loss_of(
        self, vectors: Tensor, views: Tensor, keys: list[int], numbers: np.ndarray
    ) -> Tensor:
        """The mean over these draws, `[b]`, in one call."""
        backbone, m, (b, v) = self.backbone_, len(numbers), views.shape[:2]
        t = np.stack([self._times.at(quantiles(key, numbers)) for key in keys]).ravel()
        # Bit-reversed times repeat their order every power of two, so a view shifts each round:
        # it would otherwise meet the same few times for ever.
        view = torch.from_numpy((numbers + numbers // v) % v)
        repeated = [key for key in keys for _ in numbers]
        x_0 = views[:, view].flatten(0, 1)
        x_t, t_rows, eps = noised(backbone, x_0, t, repeated, np.tile(numbers, b))
        rows = torch.arange(b, device=views.device).repeat_interleave(m)
        with torch.enable_grad():
            eps_hat = backbone.forward(x_t, t_rows, self._condition(vectors)[rows]).eps
            error = (eps - eps_hat).float() if eps.dtype.itemsize < 4 else eps - eps_hat
            return error.square().flatten(1).mean(1).view(b, m).mean(1)


def save_token(vector: np.ndarray, token: str, path: str | Path) -> None:
    """Write a learned token in the format that diffusers' `load_textual_inversion` reads.

    Args:
        vector: Input embedding `[d]`.
        token: What it is called in prompts, such as `<photo-17>`.
        path: A `.safetensors` file.

    Raises:
        InputError: another suffix, or a vector of another shape.
    """
    from safetensors.numpy import save_file

    if Path(path).suffix != ".safetensors" or np.ndim(vector) != 1:
        raise InputError(
            "A token is a vector [d] written to a .safetensors file; got "
            f"{list(np.shape(vector))} and {path}."
        )
    save_file({token: np.asarray(vector, dtype=np.float32)[None]}, path)


def load_token(path: str | Path) -> tuple[str, Tensor]:
    """Name and input embedding `[d]` of a token of one vector, as diffusers stores it.

    To use it in prompts, give the file to the pipeline's own `load_textual_inversion` and the
    pipeline to `diffzero.load`.

    Raises:
        InputError: no such file, or not one token.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}).") from None
    shapes = [list(t.shape) for t in tensors.values()]
    if len(shapes) != 1 or (vector := next(iter(tensors.values())).squeeze(0)).ndim != 1:
        raise InputError(f"{path}: one token of one vector is read; it holds tensors {shapes}.")
    return next(iter(tensors)), vector

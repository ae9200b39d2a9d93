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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..classifier import Progress
from ..errors import InputError
from ..images import affine, to_tensor
from ..noise import image_key, jitter, quantiles
from ..options import (
    ANYTHING,
    DRAWS,
    FLAG,
    NOTHING,
    STEPS,
    TEMPLATES,
    WORDS,
    interval,
    number,
    one_of,
    option,
    whole,
)
from ..scoring.denoising import noised
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from ..scoring.times import Times
from .common import Classes, DiffusionMethod, gradient, text_of

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


@dataclass(kw_only=True, eq=False, repr=False)
class TextualInversion(DiffusionMethod):
    """Learn one token from one image, then take the nearest class in the text encoder's space.

    A logit is minus the distance between the states of the learned token and of the class.

    Args:
        backbone: A text-to-image model, or what `diffzero.load` takes.
        steps: Of Adam. The paper took 700.
        rate: Adam's. The paper took 5e-4, for embeddings of Stable Diffusion's size.
        draws: Noise draws per step, each on one of the augmentations.
        augmentations: Views of the image beside itself: rotated, scaled and shifted a little.
        flip: Mirror half of the views; wrong for text and digits.
        start: `mean` starts from the mean embedding of the classes' tokens; any other word or
            words from theirs. A file written by `save_token` starts from that token.
        pool: `token` compares the states at the token, `eos` those at the end of the prompt.
        t_range: `(min, max)` of t; `[t_min, 1]` if None.
        template: One prompt with `{}` for the label; the model's own if None.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: Rows per network call, shared by the images that learn at the same time.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "textual-inversion"
    needs: ClassVar[str] = "a text-to-image model"
    cost: ClassVar[str] = (
        "steps * draws, and as many vector-Jacobian products, whatever the number of classes"
    )
    draw_arguments: ClassVar[tuple[str, ...]] = ("steps", "draws")

    backbone: Any = option("tiny-sd", ANYTHING, positional=True)
    steps: int = option(100, STEPS)
    rate: float = option(5e-3, number(0, 1e6, above=True))
    draws: int = option(4, DRAWS)
    augmentations: int = option(7, whole(0, 64))
    flip: bool = option(False, FLAG)
    start: str = option("mean", WORDS)
    pool: Literal["token", "eos"] = option("token", one_of("token", "eos"))
    t_range: tuple[float, float] | None = option(None, interval(0, 1) | NOTHING)
    template: str | None = option(None, TEMPLATES)

    def count_evals(self, n_labels: int) -> int:
        """`steps * draws`."""
        return self.steps * self.draws

    def _check_options(self) -> None:
        self.times_ = Times(self.backbone_.schedule, "uniform", self.t_range)
        self._text = text_of(self.backbone_, self.method)
        before, after = (part.strip() for part in self.templates_[0].split("{}"))
        self._before, self._after = self._text.pieces([before, after])
        self._given = None if self.start == "mean" else self._read_start()

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
        super()._fit_classes()
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
        classes = replace(self._classes(len(loaded), labels), checks=stops)
        found = [o.extra for o in self._outcomes(loaded, classes, progress)]
        vectors = np.stack([kept for kept, _ in found], 1)
        return Learned(vectors, stops, np.stack([losses for _, losses in found], 1))

    def _classes(self, n: int, labels: list[list[str]] | None) -> InversionClasses:
        return InversionClasses(**vars(super()._classes(n, labels)), given=labels)

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

    def _subjects(self, images: list[np.ndarray]) -> Any:
        """Images with their augmentations as views."""
        for image in images:
            yield Subject(self._views([image])[0], image_key(self.seed, image))

    def _start(self, words: Sequence[str]) -> Tensor:
        """Where an image's token begins, float32 `[d]`."""
        return self._mean_vector(list(words))[0] if self._given is None else self._given.clone()

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
            x_0 = backbone.encode(views.flatten(0, 1))
        return x_0.unflatten(0, (len(images), 1 + n))

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        assert isinstance(classes, InversionClasses)
        vector = self._start(classes.names[image]).requires_grad_()
        adam = torch.optim.Adam([vector], lr=self.rate)
        checks = classes.checks or (self.steps,)
        kept, losses = {0: vector.detach().cpu().numpy().copy()}, []
        for step in range(max(checks)):
            draws = np.arange(step * self.draws, (step + 1) * self.draws)
            t = self.times_.at(quantiles(subject.key, draws))
            state = vector.detach().clone()
            said = yield Jobs(np.zeros_like(draws), draws, t, state=state)
            slope = torch.from_numpy(said[:, 1:].sum(0) / self.draws)
            vector.grad = slope.to(vector)
            adam.step()
            losses.append(said[:, 0].mean())
            if step + 1 in checks:
                kept[step + 1] = vector.detach().cpu().numpy().copy()
        vectors = np.stack([kept[c] for c in checks])
        given = None if classes.given is None else [classes.given[image]]
        logits = np.zeros(len(classes.names[image]))
        if not classes.checks:
            logits = -self.distances(vectors[-1:], given)[0]
        return Outcome(logits, extra=(vectors, np.array(losses)))

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        """Each row's loss and its share of the gradient of its image's, `[n, 1 + d]`.

        An image's vector is embedded once for all of its rows; each of them is given an equal
        part of the gradient of the sum of their losses.
        """
        leaf = torch.stack(batch.states).requires_grad_()
        with torch.enable_grad():
            loss = self._losses(leaf, batch)
            # Scaled, since a mean over thousands of elements is too small for fp16.
            slope = gradient(SCALE * loss.sum(), leaf).double().cpu().numpy() / SCALE
        each = np.bincount(batch.subject)[batch.subject]
        values = np.column_stack(
            [loss.detach().double().cpu().numpy(), slope[batch.subject] / each[:, None]]
        )
        return Results(values, 1, 1)

    def _losses(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Mean squared error per element of every row, `[n]`, differentiable.

        Args:
            vectors: One for each of the batch's images, `[b, d]`.
            batch: Rows, each a draw on one of the image's views.
        """
        v = len(batch.subjects[0].x_0)
        # Bit-reversed times repeat their order every power of two, so a view shifts each round:
        # it would otherwise meet the same few times for ever.
        view = (batch.draw + batch.draw // v) % v
        x_0 = batch.x_0[torch.arange(len(batch)), batch.on_device(view)]
        x_t, t, eps = noised(self.backbone_, x_0, batch.t, batch.keys, batch.draw)
        cond = self._condition(vectors)[batch.on_device(batch.subject)]
        eps_hat = self.backbone_.forward(x_t, t, cond).eps
        return (eps.double() - eps_hat.double()).square().flatten(1).mean(1)


@dataclass(frozen=True)
class InversionClasses(Classes):
    """Classes, and what is wanted of the learned tokens.

    Attributes:
        given: Each image's own candidates; None for the fitted classes.
        checks: Numbers of steps after which tokens are kept, where those alone are wanted.
    """

    given: list[list[str]] | None = None
    checks: tuple[int, ...] = ()


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

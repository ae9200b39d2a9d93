"""Cross-attention maps (Algorithm 5): the class whose words the image's pixels look at most.

One prompt holds every class ("a fox or a lion or a tiger"). In one forward pass at time t, the
attention of layer l gives, averaged over heads and over the tokens T_c of a class,

    M_lc(pixel) = mean over heads, tokens j in T_c of  A_l(pixel, j),

    logit_c = mean over layers of  aggregate over pixels of  (M_lc - B_lc),

where B is the same map of pure noise under the same prompt: what the words draw by themselves.
Words also draw by their place in the prompt, so M and B are averaged over cyclic orders of the
classes. More classes than fit the text encoder are split into groups, and the winners meet in a
final; a class that lost ranks below its group's winner by what it lost by.

References:
    Hertz et al., Prompt-to-Prompt Image Editing with Cross Attention Control, 2022.
    https://arxiv.org/abs/2208.01626
    Tang et al., What the DAAM, 2022. https://arxiv.org/abs/2210.04885
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..models.attention import captured
from ..models.conditioner import Condition
from ..models.denoiser import as_column
from ..options import (
    ANYTHING,
    DRAWS,
    FLAG,
    NOTHING,
    WORDS,
    number,
    one_of,
    option,
    several,
    short,
    whole,
)
from ..scoring.denoising import noised
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from .common import Classes, DiffusionMethod, text_of

FORMS = {"photo": "a photo of a {}", "short": "a {}"}  # the two of the paper
Maps = dict[str, Tensor]  # of each layer, `[c, pixels]`


@dataclass(frozen=True)
class Prompts(Classes):
    """The prompts of a run, each numbered when a program first asks for it.

    Attributes:
        known: Number of each tuple of labels.
    """

    known: dict[tuple[str, ...], int] = field(default_factory=dict)

    def number(self, labels: tuple[str, ...]) -> int:
        """Of the prompt with these labels in this order."""
        return self.known.setdefault(labels, len(self.known))


@dataclass(kw_only=True, eq=False, repr=False)
class CrossAttention(DiffusionMethod):
    """Compare the attention that the image pays to each class's words.

    A logit is the mean attention (a probability over all keys) above that of noise, or with
    `aggregate="count"` the share of pixels above the threshold.

    Args:
        backbone: A text-to-image model, or what `diffzero.load` takes.
        t: Time of the forward pass, in (0, 1].
        draws: Noise draws.
        layers: Patterns of layer names such as `up_*`, see `layer_names`; all if None.
        aggregate: `mean` over pixels, or `count` of pixels over a threshold.
        threshold: Of `count`; if None, the mean over the prompt's classes and pixels in a layer.
        order: `cyclic` averages over all cyclic orders of the classes; `given` takes the one
            given.
        baseline: `noise` subtracts the map of pure noise, `none` does not.
        noised: `x_t` is the image with noise; False gives the network the clean image at time t.
        form: `short` is "a c1 or a c2", `photo` is "a photo of a c1 or a photo of a c2"; any
            other text with `{}` is used as it is, and joined by "or".
        group: Classes per prompt at most; as many as fit if None.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "cross-attention"
    needs: ClassVar[str] = "a text-to-image model"
    cost: ClassVar[str] = (
        "draws for each prompt, times the classes in it with order='cyclic', times two with "
        "baseline='noise'; one prompt holds as many classes as fit, and the winners of several "
        "meet in further ones"
    )
    draw_arguments: ClassVar[tuple[str, ...]] = ("draws",)
    template: ClassVar[str] = "{}"

    expects: ClassVar[bool] = False

    backbone: Any = option("tiny-sd", ANYTHING, positional=True)
    t: float = option(0.3, number(0, 1, above=True))
    draws: int = option(1, DRAWS)
    layers: str | Sequence[str] | None = option(None, WORDS | several(WORDS) | NOTHING)
    aggregate: Literal["mean", "count"] = option("mean", one_of("mean", "count"))
    threshold: float | None = option(None, number() | NOTHING)
    order: Literal["cyclic", "given"] = option("cyclic", one_of("cyclic", "given"))
    baseline: Literal["noise", "none"] = option("noise", one_of("noise", "none"))
    noised: bool = option(True, FLAG)
    form: str = option("short", WORDS)
    group: int | None = option(None, whole(2, 10_000) | NOTHING)

    def count_evals(self, n_labels: int) -> int:
        """Prompts of the groups and of the finals; see the class."""
        if n_labels == len(getattr(self, "names_", ())):
            sizes = [len(g) for g in self._split(self.names_)]
        else:  # how many words fit is not known before they are
            sizes = _sizes(n_labels, self.group or n_labels)
        total, most = 0, self.group or max(sizes)
        while sizes:
            total += sum(map(self._cost, sizes))
            # Winners are taken to fit as many to a prompt as the first groups did.
            sizes = _sizes(len(sizes), most) if len(sizes) > 1 else []
        return total

    def _cost(self, n: int) -> int:
        """Evaluations of one prompt of n classes; a class without rivals needs none."""
        if n == 1:
            return 0
        orders = n if self.order == "cyclic" else 1
        return self.draws * orders * (2 if self.baseline == "noise" else 1)

    def layer_names(self) -> list[str]:
        """Names of the attention layers that `layers` chooses from."""
        return list(self.backbone_.attention)

    def _check_options(self) -> None:
        self._form = FORMS.get(self.form, self.form)
        if self._form.count("{}") != 1:
            raise InputError(
                "form is photo, short, or a text with one {} for the label; got "
                f"{short(self.form)}."
            )
        self._text = text_of(self.backbone_, self.method)
        self._known: dict[tuple[str, ...], list[list[int]]] = {}
        modules = self.backbone_.attention
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        self._modules = {
            name: module
            for name, module in modules.items()
            if patterns is None or any(fnmatch(name, p) for p in patterns)
        }
        if not self._modules:
            raise InputError(f"layers {short(self.layers)} match none of {', '.join(modules)}.")

    def _check_labels(self, labels: Sequence[list[str]]) -> None:
        super()._check_labels(labels)
        for own in {tuple(one): None for one in labels}:
            self._check_room(own)

    def _fit_classes(self) -> None:
        """Nothing: prompts hold several classes, and are made as they are needed."""

    def _classes(self, n: int, labels: list[list[str]] | None) -> Prompts:
        own = [self.names_] * n if labels is None else labels
        self._check_labels([] if labels is None else labels)
        return Prompts(own, [np.arange(len(one)) for one in own], None)

    def _check_room(self, labels: Sequence[str]) -> None:
        """Refuse labels of which some two, which may meet in a final, do not fit one prompt."""
        tokens = self._text.pieces(list(labels))
        longest = [labels[i] for i in np.argsort([-len(t) for t in tokens], kind="stable")[:2]]
        if not self._fits(longest):
            raise InputError(self._too_long(longest))

    def _fits(self, labels: Sequence[str]) -> bool:
        return self._text.fits(self._prompt(labels)[0])

    def _too_long(self, labels: Sequence[str]) -> str:
        return (
            f"{self.backbone_.name} reads {self._text.room} tokens, too few for "
            f"{labels[0]!r} and {labels[1]!r} in one prompt of the form {self._form!r}. "
            "Use shorter labels or form='short'."
        )

    def _split(self, labels: Sequence[str]) -> list[list[int]]:
        """Columns of the classes, in the fewest groups of like size whose prompts fit."""
        key = tuple(labels)
        if key not in self._known:
            self._known[key] = self._fewest_groups(labels)
        return self._known[key]

    def _fewest_groups(self, labels: Sequence[str]) -> list[list[int]]:
        k = len(labels)
        least = 1 if self.group is None else -(-k // self.group)
        for n in range(least, max(k, 2)):
            groups = [list(map(int, g)) for g in np.array_split(np.arange(k), n)]
            if all(self._fits([labels[c] for c in g]) for g in groups if g):
                return groups
        raise InputError(self._too_long(labels))  # pairs that an encoder splits more finely

    def _parts(self, labels: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids of a prompt piece by piece, and which pieces are the classes."""
        before, after = self._form.split("{}")
        texts, classes = [], []
        for position, label in enumerate(labels):
            texts.append(f"or {before}" if position else before)
            classes.append(len(texts))
            texts += [label, after]
        return self._text.pieces([t.strip() for t in texts]), classes

    def _prompt(self, labels: Sequence[str]) -> tuple[list[int], list[range]]:
        """Token ids of a prompt, and the tokens of each class among them."""
        pieces, classes = self._parts(labels)
        starts = np.cumsum([0] + [len(p) for p in pieces])
        return [i for p in pieces for i in p], [range(starts[c], starts[c + 1]) for c in classes]

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        """A tournament: the classes of each group, then the winners of the groups."""
        assert isinstance(classes, Prompts)
        names = classes.names[image]
        logits = np.full(len(names), -np.inf)
        playing = list(range(len(names)))
        lost: list[tuple[int, int, float]] = []  # class, to whom, by how much
        maps: Maps = {}
        while playing:
            winners = []
            for group in self._split([names[c] for c in playing]):
                columns = [playing[c] for c in group]
                maps = yield from self._prompt_maps([names[c] for c in columns], classes)
                value = self._aggregate(maps)
                best = columns[int(value.argmax())]
                winners.append(best)
                for column, v in zip(columns, value, strict=True):
                    if len(columns) == len(playing):
                        logits[column] = v
                    elif column != best:
                        lost.append((column, best, float(value.max() - v)))
            playing = winners if len(winners) > 1 else []
        for column, best, behind in reversed(lost):  # later rounds first
            logits[column] = logits[best] - behind
        return Outcome(logits, extra=maps)

    def _prompt_maps(
        self, labels: list[str], prompts: Prompts
    ) -> Generator[Jobs, list[Maps], Maps]:
        """Maps `[c, pixels]` of the classes of one prompt, averaged over draws and orders."""
        n = len(labels)
        if n == 1:  # no rivals, no prompt
            return {}
        shifts = range(n if self.order == "cyclic" else 1)
        blanks = (0, 1) if self.baseline == "noise" else (0,)
        rows = [(s, d, b) for s in shifts for d in range(self.draws) for b in blanks]
        shift, draw, blank = (np.array(column) for column in zip(*rows, strict=True))
        turned = [prompts.number((*labels[s:], *labels[:s])) for s in shifts]
        t = np.full(len(rows), self.t)
        found = yield Jobs(np.array(turned)[shift], draw, t, tag=blank)
        total: Maps = {}
        for (s, _, b), layers in zip(rows, found, strict=True):
            share = (-1.0 if b else 1.0) * len(blanks) / self._cost(n)
            for layer, own in layers.items():
                back = torch.roll(own[:n], s, 0) * share
                total[layer] = total[layer] + back if layer in total else back
        return total

    def _aggregate(self, maps: Maps) -> np.ndarray:
        """Maps `[c, pixels]` of each layer to one number per class, `[c]`."""
        if not maps:
            return np.zeros(1)
        values = []
        for layer in maps.values():
            if self.aggregate == "mean":
                values.append(layer.mean(1))
            else:
                bar = layer.mean() if self.threshold is None else self.threshold
                values.append(((layer > bar) + 0 * layer).mean(1))  # NaN stays NaN
        return torch.stack(values).mean(0).cpu().numpy()

    def heat_maps(
        self, images: Any, candidates: Sequence[Sequence[str]] | None = None
    ) -> list[np.ndarray]:
        """Attention to each class over each image, averaged over layers: float64 `[k, s, s]`.

        The side s is that of the finest chosen layer. Classes must fit one prompt.

        Raises:
            InputError: see `scores`; too many classes for one prompt.
        """
        loaded, labels = self._inputs(images, candidates)
        classes = self._classes(len(loaded), labels)
        if any(len(self._split(own)) > 1 for own in classes.names):
            raise InputError("These classes do not fit one prompt; draw maps of fewer at a time.")
        found = self._outcomes(loaded, classes)
        return [_over_image(outcome.extra).cpu().numpy() for outcome in found]

    @torch.no_grad()
    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        """Maps `[c, pixels]` of each row by layer."""
        assert isinstance(classes, Prompts)
        numbers, place = np.unique(batch.condition, return_inverse=True)
        labels = list(classes.known)
        made = [self._prompt(labels[n]) for n in numbers]
        cond = self._text.embed_tokens([ids for ids, _ in made])
        spans = [made[p][1] for p in place]
        x_t, t = self._seen(batch)
        maps = self._attend(x_t, t, cond[batch.on_device(place)], spans)
        rows = [{layer: of[i] for layer, of in maps.items()} for i in range(len(batch))]
        return Results(rows)

    def _seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the network sees in each row: the image with or without noise, or noise alone."""
        clean = batch.x_0
        noisy, t, eps = noised(self.backbone_, clean, batch.t, batch.keys, batch.draw)
        alpha, sigma = (as_column(s, eps) for s in self.backbone_.scales(t))
        x_t = noisy if self.noised else clean
        pure = (alpha**2 + sigma**2).sqrt() * eps  # as large as data of unit variance with noise
        return torch.where(as_column(batch.on_device(batch.tag), eps) > 0, pure, x_t), t

    def _attend(self, x_t: Tensor, t: Tensor, cond: Condition, spans: list[list[range]]) -> Maps:
        """Maps `[b, c, pixels]` by layer, float64: heads and a class's tokens averaged."""
        first = self._text.first_token
        window = self._text.room + first + 1
        most = max(map(len, spans))
        share = torch.zeros(len(x_t), most, window, dtype=torch.float64, device=x_t.device)
        for row, classes in zip(share, spans, strict=True):
            for line, span in zip(row, classes, strict=False):
                line[first + span.start : first + span.stop] = 1 / len(span)
        found: Maps = {}

        def keep(name: str, probabilities: Tensor) -> None:
            text = probabilities[..., :window].mean(1).double()  # [b, pixels, window]
            found[name] = share[..., : text.shape[-1]] @ text.transpose(1, 2)

        with captured(self._modules, keep):
            self.backbone_.forward(x_t, t, cond)
        return found


def _sizes(n: int, most: int) -> list[int]:
    """Sizes of the fewest groups of n classes, at most so many each."""
    return [len(g) for g in np.array_split(np.arange(n), -(-n // most))]


def _over_image(maps: dict[str, Tensor]) -> Tensor:
    """Layers of many sizes as one map `[c, s, s]`."""
    side = max(round(m.shape[1] ** 0.5) for m in maps.values())
    squares = [m.view(len(m), 1, round(m.shape[1] ** 0.5), -1) for m in maps.values()]
    resized = [functional.interpolate(m, size=(side, side), mode="bilinear") for m in squares]
    return torch.stack(resized).mean(0)[:, 0]

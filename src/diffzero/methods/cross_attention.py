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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..attention import captured
from ..backbone import as_column
from ..classifier import Progress, Scores
from ..errors import InputError
from ..noise import image_key
from ..scoring import noised
from .common import DiffusionMethod, text_backbone

FORMS = {"photo": "a photo of a {}", "short": "a {}"}  # the two of the paper


@dataclass(frozen=True)
class Item:
    """One prompt's worth of classes for one image.

    Attributes:
        image: Position of the image.
        columns: Columns of the classes among the image's own.
        labels: Their names, in the same order.
    """

    image: int
    columns: tuple[int, ...]
    labels: tuple[str, ...]


class CrossAttention(DiffusionMethod):
    """Compare the attention that the image pays to each class's words.

    Cost: `draws` evaluations for each prompt, times the classes in it with `order="cyclic"`, times
    two with `baseline="noise"`; one prompt holds as many classes as fit, winners of several meet
    in further ones. With `order="given"` it does not grow with the classes of one prompt.

    A logit is the mean attention (a probability over all keys) above that of noise, or with
    `aggregate="count"` the share of pixels above the threshold.

    Args:
        backbone: A text-to-image backbone, or what `diffzero.load` takes.
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
        group: Classes a prompt at most; as many as fit if None.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method = "cross-attention"
    template = "{}"

    def __init__(
        self,
        backbone: Any = "tiny-sd",
        *,
        t: float = 0.3,
        draws: int = 1,
        layers: str | Sequence[str] | None = None,
        aggregate: Literal["mean", "count"] = "mean",
        threshold: float | None = None,
        order: Literal["cyclic", "given"] = "cyclic",
        baseline: Literal["noise", "none"] = "noise",
        noised: bool = True,
        form: str = "short",
        group: int | None = None,
        temperature: float | None = None,
        priors: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.backbone = backbone
        self.t = t
        self.draws = draws
        self.layers = layers
        self.aggregate = aggregate
        self.threshold = threshold
        self.order = order
        self.baseline = baseline
        self.noised = noised
        self.form = form
        self.group = group
        self.temperature = temperature
        self.priors = priors
        self.seed = seed
        self.batch_size = batch_size
        self.value_range = value_range

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

    def _fitted_temperature(self) -> float | None:
        """The card's, for the default settings but for the number of draws."""
        fitted = self.backbone_.temperatures.get(self.method, {})
        return None if self._changed("draws") else fitted.get(self.draws)

    def layer_names(self) -> list[str]:
        """Names of the attention layers that `layers` chooses from."""
        return list(self._text.attention_modules())

    def _check_options(self) -> None:
        self._check_choices(
            aggregate=("mean", "count"), order=("cyclic", "given"), baseline=("noise", "none")
        )
        self._check_at_least_one("draws")
        if not 0 < self.t <= 1:
            raise InputError(f"t must lie in (0, 1]; got {self.t}.")
        if self.group is not None and self.group < 2:
            raise InputError(f"group must be at least 2; got {self.group}.")
        self._form = FORMS.get(self.form, self.form)
        if self._form.count("{}") != 1:
            raise InputError(
                f"form is photo, short, or a text with one {{}} for the label; got {self.form!r}."
            )
        self._text = text_backbone(self.backbone_, self.method)
        self._known: dict[tuple[str, ...], list[list[int]]] = {}
        modules = self._text.attention_modules()
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        self._modules = {
            name: module
            for name, module in modules.items()
            if patterns is None or any(fnmatch(name, p) for p in patterns)
        }
        if not self._modules:
            raise InputError(f"layers {self.layers!r} match none of {', '.join(modules)}.")

    def _fit_classes(self) -> None:
        self._check_room(self.names_)

    def _check_candidates(self, labels: list[list[str]]) -> None:
        super()._check_candidates(labels)
        for own in {tuple(one): None for one in labels}:
            self._check_room(own)

    def _check_room(self, labels: Sequence[str]) -> None:
        """Refuse labels of which some two, which may meet in a final, do not fit one prompt."""
        tokens = self._text.pieces(list(labels))
        longest = [labels[i] for i in np.argsort([-len(t) for t in tokens], kind="stable")[:2]]
        if sum(map(len, self._parts(longest)[0])) > self._text.room:
            raise InputError(
                f"{self.backbone_.name} reads {self._text.room} tokens, too few for "
                f"{longest[0]!r} and {longest[1]!r} in one prompt of the form {self._form!r}. "
                "Use shorter labels or form='short'."
            )

    def _split(self, labels: Sequence[str]) -> list[list[int]]:
        """Columns of the classes, in the fewest groups of like size whose prompts fit."""
        key = tuple(labels)
        if key not in self._known:
            self._known[key] = self._fewest_groups(labels)
        return self._known[key]

    def _fewest_groups(self, labels: Sequence[str]) -> list[list[int]]:
        k, room = len(labels), self._text.room
        least = 1 if self.group is None else -(-k // self.group)
        for n in range(least, k):
            groups = [list(map(int, g)) for g in np.array_split(np.arange(k), n)]
            longest = max(
                sum(map(len, self._parts([labels[c] for c in g])[0])) for g in groups if g
            )
            if longest <= room:
                return groups
        raise AssertionError("_check_room saw to it that any two classes fit")

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

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        if labels is not None:
            self._check_candidates(labels)
        own = [self.names_] * len(images) if labels is None else labels
        logits = np.full((len(images), max(map(len, own))), -np.inf)
        evals = np.zeros(len(images), dtype=np.int64)
        size = self._rows_a_call()
        for start in range(0, len(images), size):
            part = slice(start, start + size)  # views, which the tournament fills
            x_0 = self._encode(images[part])
            keys = [image_key(self.seed, image) for image in images[part]]
            self._tournament(own[part], x_0, keys, logits[part], evals[part], progress)
        return Scores(logits, evals)

    def _tournament(
        self,
        own: list[list[str]],
        x_0: Tensor,
        keys: list[int],
        logits: np.ndarray,
        evals: np.ndarray,
        progress: Progress | None,
    ) -> None:
        """Fill logits and evaluations: groups, then the winners of each image's groups."""
        playing = [list(range(len(labels))) for labels in own]
        lost: list[list[tuple[int, int, float]]] = [[] for _ in own]  # class, to whom, by how much
        while any(playing):
            items = []
            for i, columns in enumerate(playing):
                names = [own[i][c] for c in columns]
                for group in self._split(names) if len(columns) > 1 else []:
                    chosen = tuple(columns[c] for c in group)
                    items.append(Item(i, chosen, tuple(own[i][c] for c in chosen)))
            winners: list[list[int]] = [[] for _ in own]
            for item, maps in zip(items, self._maps(items, x_0, keys, progress), strict=True):
                value = self._aggregate(maps)
                evals[item.image] += self._cost(len(item.labels))
                best = item.columns[int(value.argmax())]
                winners[item.image].append(best)
                last = len(item.columns) == len(playing[item.image])
                for column, v in zip(item.columns, value, strict=True):
                    if last:
                        logits[item.image, column] = v
                    elif column != best:
                        lost[item.image].append((column, best, float(value.max() - v)))
            playing = [w if len(w) > 1 else [] for w in winners]
        for i, losers in enumerate(lost):
            for column, best, behind in reversed(losers):  # later rounds first
                logits[i, column] = logits[i, best] - behind

    def _aggregate(self, maps: dict[str, Tensor]) -> np.ndarray:
        """Maps `[c, pixels]` of each layer to one number a class, `[c]`."""
        if not maps:  # no rivals, no prompt
            return np.zeros(1)
        values = []
        for layer in maps.values():
            if self.aggregate == "mean":
                values.append(layer.mean(1))
            else:
                bar = layer.mean() if self.threshold is None else self.threshold
                values.append((layer > bar).double().mean(1))
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
        own = [self.names_] * len(loaded) if labels is None else labels
        if labels is not None:
            self._check_candidates(labels)
        if any(len(self._split(o)) > 1 for o in own):
            raise InputError("These classes do not fit one prompt; draw maps of fewer at a time.")
        keys = [image_key(self.seed, image) for image in loaded]
        items = [Item(i, tuple(range(len(o))), tuple(o)) for i, o in enumerate(own)]
        found = self._maps(items, self._encode(loaded), keys, None)
        return [_over_image(maps).cpu().numpy() for maps in found]

    def _maps(
        self, items: list[Item], x_0: Tensor, keys: list[int], progress: Progress | None
    ) -> list[dict[str, Tensor]]:
        """Maps `[c, pixels]` of each item by layer, averaged over draws and orders."""
        rows = [
            (place, shift, draw, blank)
            for place, item in enumerate(items)
            if len(item.labels) > 1
            for shift in range(len(item.labels) if self.order == "cyclic" else 1)
            for draw in range(self.draws)
            for blank in ((False, True) if self.baseline == "noise" else (False,))
        ]
        turned = {
            (items[p].labels[s:] + items[p].labels[:s]): None for p, s, _, _ in rows
        }  # distinct prompts, in order
        prompts = {labels: self._prompt(labels) for labels in turned}
        number = {labels: i for i, labels in enumerate(prompts)}
        cond = self._text.embed_tokens([ids for ids, _ in prompts.values()]) if prompts else None
        sums: list[dict[str, Tensor]] = [{} for _ in items]
        size = self._rows_a_call()
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            labels = [items[p].labels[s:] + items[p].labels[:s] for p, s, _, _ in part]
            chosen = torch.tensor([number[one] for one in labels], device=x_0.device)
            assert cond is not None
            spans = [prompts[one][1] for one in labels]
            x_t = self._inputs_of(part, items, x_0, keys)
            for layer, maps in self._attend(x_t, cond[chosen], spans).items():
                for (place, shift, _, blank), row in zip(part, maps, strict=True):
                    n = len(items[place].labels)
                    weight = (-1.0 if blank else 1.0) * (2 if self.baseline == "noise" else 1)
                    own = torch.roll(row[:n], shift, 0) * (weight / self._cost(n))
                    kept = sums[place]
                    kept[layer] = kept[layer] + own if layer in kept else own
            if progress is not None:
                progress(len(part))
        return sums

    def _inputs_of(
        self, rows: list[tuple[int, int, int, bool]], items: list[Item], x_0: Tensor, keys: Any
    ) -> Tensor:
        """What the network sees in each row: the image with or without noise, or noise alone."""
        images = [items[place].image for place, _, _, _ in rows]
        clean = x_0[torch.tensor(images, device=x_0.device)]
        numbers = np.array([draw for _, _, draw, _ in rows])
        times, own = np.full(len(rows), self.t), [keys[i] for i in images]
        noisy, t, eps = noised(self.backbone_, clean, times, own, numbers)
        alpha, sigma = (as_column(s, eps) for s in self.backbone_.schedule(t))
        x_t = noisy if self.noised else clean
        blank = as_column(torch.tensor([b for *_, b in rows], device=x_0.device), eps)
        pure = (alpha**2 + sigma**2).sqrt() * eps  # as large as data of unit variance with noise
        return blank * pure + (1 - blank) * x_t

    @torch.no_grad()
    def _attend(self, x_t: Tensor, cond: Any, spans: list[list[range]]) -> dict[str, Tensor]:
        """Maps `[b, c, pixels]` by layer, float64: heads and a class's tokens averaged."""
        t = torch.full((len(x_t),), self.t, dtype=torch.float64, device=x_t.device)
        most = max(map(len, spans))
        window = self._text.room + self._text.first_token + 1
        share = torch.zeros(len(x_t), most, window, dtype=torch.float64, device=x_t.device)
        for row, classes in zip(share, spans, strict=True):
            for line, span in zip(row, classes, strict=False):
                first = self._text.first_token
                line[first + span.start : first + span.stop] = 1 / len(span)
        found: dict[str, Tensor] = {}

        def keep(name: str, probabilities: Tensor) -> None:
            text = probabilities[..., :window].mean(1).double()  # [b, pixels, window]
            found[name] = share[..., : text.shape[-1]] @ text.transpose(1, 2)

        with captured(self._modules, keep):
            self._text.forward(x_t, t, cond)
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

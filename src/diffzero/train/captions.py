"""Captions and images in batches, as the recipes of text models draw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Labelled
from ..images import affine

if TYPE_CHECKING:
    import torch

CONTRASTED = 0.5  # most of a batch that is also given a false caption


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random rotations (10 degrees), scalings (10 %) and shifts (6 %) of `[b, c, h, w]`.

    The 1,437 digits are too few for a network of millions of weights to see each only as it is.
    """
    import torch

    b = len(images)
    angle = (torch.rand(b, generator=generator) * 2 - 1) * np.deg2rad(10)
    scale = 1 + (torch.rand(b, generator=generator) * 2 - 1) * 0.1
    shift = (torch.rand(b, 2, generator=generator) * 2 - 1) * 0.12
    return affine(images, angle, scale, shift)


def mirrored(
    images: torch.Tensor, generator: torch.Generator, able: torch.Tensor | None = None
) -> torch.Tensor:
    """Images, about every second of them with left and right exchanged.

    Args:
        images: `[b, c, h, w]`.
        generator: Draws which are exchanged.
        able: Which of them may be, bool `[b]`; all if None.
    """
    import torch

    chosen = torch.rand(len(images), generator=generator) < 0.5
    if able is not None:
        chosen &= able
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)


@dataclass(frozen=True)
class Batch:
    """Which images a step takes, and which captions they get.

    Attributes:
        index: Places in each set, all together the batch.
        classes: Of each image, counted over all sets.
        rows: A true caption of each, an index into `Captions.ids`.
        chosen: Places in the batch of the images that get a false caption too.
        wrong: The false ones of these.
    """

    index: list[torch.Tensor]
    classes: torch.Tensor
    rows: torch.Tensor
    chosen: torch.Tensor
    wrong: torch.Tensor


class Captions:
    """Random captions of classes: one row of token ids each.

    Args:
        sets: The data sets; class `k` of set `s` gets its own list of captions.
        tokenizer: Pads to its `model_max_length`.

    Attributes:
        texts: Every caption once.
        ids: Their tokens, one row each.
    """

    def __init__(self, sets: list[Labelled], tokenizer: Any) -> None:
        import torch

        texts = [group for s in sets for group in s.captions()]
        self.first_class = np.cumsum([0] + [len(s.names) for s in sets])
        self.counts = torch.tensor([len(t) for t in texts])
        self.starts = torch.cumsum(self.counts, 0) - self.counts
        # Images of one set share captions, so each text is tokenised and kept once.
        number: dict[str, int] = {}
        flat = [number.setdefault(t, len(number)) for group in texts for t in group]
        self.flat = torch.tensor(flat)
        self.empty = number.setdefault("", len(number))
        sides = [c for s in sets for c in (s.contrasts or [[]] * len(s.names))]
        self.sides = torch.tensor([len(c) for c in sides])
        self.first_side = torch.cumsum(self.sides, 0) - self.sides
        numbers = [number.setdefault(t, len(number)) for c in sides for t in c]
        self.side = torch.tensor(numbers, dtype=torch.long)
        self.texts = list(number)
        ids = tokenizer(self.texts, padding="max_length", truncation=True, return_tensors="pt")
        self.ids, self.mask = ids.input_ids, ids.attention_mask

    def batch(
        self,
        sizes: list[int],
        labels: list[torch.Tensor],
        weights: torch.Tensor,
        n: int,
        generator: torch.Generator,
        dropout: float = 0.0,
    ) -> Batch:
        """A batch of `n` images with captions.

        Args:
            sizes: Images of each set.
            labels: Of each set, one per image.
            weights: Share of the batch that each set gets, see `mix`.
            n: Images.
            generator: Draws all.
            dropout: Share of images without a false caption whose true one is left empty.
        """
        import torch

        index = pick(sizes, weights, n, generator)
        first = self.first_class
        classes = torch.cat([y[i] + int(k) for y, i, k in zip(labels, index, first, strict=False)])
        rows = self.draw(classes, generator)
        if dropout:
            rows[torch.rand(n, generator=generator) < dropout] = self.empty
        able = (self.sides[classes] > 1).nonzero().flatten()
        chosen = able[torch.randperm(len(able), generator=generator)[: int(CONTRASTED * n)]]
        rows[chosen], wrong = self.contrast(classes[chosen], generator)
        return Batch(index, classes, rows, chosen, wrong)

    def draw(self, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A random caption for each class, as an index into `ids`; classes count over all sets."""
        import torch

        u = torch.rand(len(classes), generator=generator)
        return self.flat[self.starts[classes] + (u * self.counts[classes]).long()]

    def contrast(
        self, classes: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The true caption and a false one of the same wording, as indices into `ids`.

        The more a false one is like the true one, the more often it is drawn: for "a red circle"
        of 18 candidates, most of which differ in both words, more than every second time one that
        differs in one. A network that hears of both together learns the easier of the two.

        Args:
            classes: Over all sets, each with captions to tell apart (`sides` above 1).
            generator: Picks among the false ones.
        """
        import torch

        first = self.first_side[classes]
        u = torch.rand(len(classes), generator=generator)
        other = 1 + (u.square() * (self.sides[classes] - 1)).long()
        return self.side[first], self.side[first + other]


def mix(sets: list[Labelled]) -> torch.Tensor:
    """Share of a batch that each set gets."""
    import torch

    share = torch.tensor([0.2 if s.name == "digits" else 1.0 for s in sets])
    return share / share.sum()


def pick(
    sizes: list[int], weights: torch.Tensor, n: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Indices into each set for one batch of `n` images in all."""
    import torch

    counts = (weights * n).round().long()
    counts[0] += n - counts.sum()
    return [
        torch.randint(s, (int(c),), generator=generator)
        for s, c in zip(sizes, counts, strict=False)
    ]

"""CLIP: the class whose caption lies nearest to the image. The baseline of every other method.

    logit_c = s cos(f(x), g_c),    g_c = normalise(mean over templates of g(template(c)))

References:
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..classifier import Classifier, Progress, Scores, resolve
from ..errors import InputError
from ..models.clip import ClipBackbone
from ..options import ANYTHING, TEMPLATES, option
from ..prompts import check_readable, check_templates, fill


@dataclass(kw_only=True, eq=False, repr=False)
class CLIP(Classifier):
    """Zero-shot CLIP with template ensembles.

    A logit is the cosine of image and caption times the model's learned scale.

    Args:
        backbone: A CLIP model, or what `diffzero.load` takes.
        template: One prompt with `{}` for the label, or several whose features are averaged.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: Unused: CLIP draws nothing. Accepted so that methods can be swapped.
        batch_size: Images per network call; the model's own number if None.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "clip"
    needs: ClassVar[str] = "a CLIP model"
    cost: ClassVar[str] = "1, whatever the number of classes; captions are embedded once"

    backbone: Any = option("tiny-clip", ANYTHING, positional=True)
    template: str | Sequence[str] | None = option(None, TEMPLATES)

    def count_evals(self, n_labels: int) -> int:
        """One."""
        return 1

    def _prepare(self) -> None:
        backbone = resolve(self.backbone)
        if not isinstance(backbone, ClipBackbone):
            raise InputError(
                f"clip needs a CLIP model, and {backbone.name} is a diffusion model. "
                "Use method elbo, or a CLIP model such as tiny-clip."
            )
        self.backbone_ = backbone
        self.templates_ = check_templates(self.template, backbone.template)
        if hasattr(self, "names_"):
            check_readable(backbone, self.names_, self.templates_)
            self._class_features = self._embed(self.names_)

    def _embed(self, labels: list[str]) -> Tensor:
        """Class features `[k, d]`: mean over templates, normalised again."""
        features = self.backbone_.text_features(fill(self.templates_, labels))
        mean = features.view(len(labels), len(self.templates_), -1).mean(1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        rows = self.batch_size or self.backbone_.default_batch_size()
        features = []
        for start in range(0, len(images), rows):
            features.append(self.backbone_.image_features(images[start : start + rows]))
            if progress is not None:
                progress(len(features[-1]))
        image = torch.cat(features)
        scale = self.backbone_.logit_scale
        evals = np.ones(len(images), dtype=np.int64)
        if labels is None:
            cosine = image.double() @ self._class_features.double().T
            return Scores(scale * cosine.cpu().numpy(), evals)
        logits = np.full((len(images), max(map(len, labels))), -np.inf)
        for i, own in enumerate(labels):
            check_readable(self.backbone_, own, self.templates_)
            cosine = self._embed(own).double() @ image[i].double()
            logits[i, : len(own)] = scale * cosine.cpu().numpy()
        return Scores(logits, evals)

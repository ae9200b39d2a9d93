"""The fifteen common corruptions at five severities, repeatable image by image.

The corruptions are those of the package `imagecorruptions-imaug` (import name
`imagecorruptions`). Their randomness derives from the user's seed, the name, the severity and the
pixels of the clean image, so that a corrupted image does not depend on order, batch or worker.

References:
    Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations, 2019. https://arxiv.org/abs/1903.12261
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

NAMES = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SMALLEST = 32  # pixels a side that the package accepts
IMPULSES = (0.03, 0.06, 0.09, 0.17, 0.27)  # share of pixels by severity
_lock = threading.Lock()


@dataclass(frozen=True)
class Corruption:
    """A corruption at a severity: a function of pixels.

    Attributes:
        name: One of `NAMES`.
        severity: 1 (slight) to 5.
        seed: The user's.
    """

    name: str
    severity: int
    seed: int = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 `[h, w, 3]` to the same, at least 32 pixels a side.

        Smaller images are enlarged first (bicubic): on 8 pixels the corruptions mean nothing.
        """
        from ..noise import image_key

        key = image_key(self.seed, pixels)
        # numpy's old generator takes 32 bits, and the package knows no other.
        seed = (key ^ (NAMES.index(self.name) * 5 + self.severity)) % 2**32
        return _apply(enlarge(pixels), self.name, self.severity, seed)


def parse_corruption(text: str | None, seed: int) -> Corruption | None:
    """`NAME:SEVERITY`.

    Raises:
        InputError: an unknown name, or a severity that is none of 1 to 5.
    """
    if text is None:
        return None
    name, _, severity = text.partition(":")
    name = name.replace("-", "_")
    if name not in NAMES or severity not in ("1", "2", "3", "4", "5"):
        raise InputError(
            f"--corrupt takes NAME:SEVERITY with a severity of 1 to 5 and a name among "
            f"{', '.join(NAMES)}; got {text!r}."
        )
    _package()
    return Corruption(name, int(severity), seed)


def enlarge(pixels: np.ndarray) -> np.ndarray:
    """At least 32 pixels a side, the aspect kept."""
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = SMALLEST / min(height, width)
    if scale <= 1:
        return pixels
    size = (max(SMALLEST, round(width * scale)), max(SMALLEST, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _package() -> Any:
    try:
        import imagecorruptions
    except ImportError as error:
        raise InputError(
            f"Corruptions need the package imagecorruptions-imaug ({error}). Install it with "
            "pip install 'diffzero[robustness]'; where a library such as libGL is missing, put "
            "opencv-python-headless in the place of opencv-python."
        ) from None
    return imagecorruptions


def _apply(pixels: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    if name == "impulse_noise":
        # The package leaves this one unseeded; the call behind it takes a generator.
        from skimage.util import random_noise

        share = IMPULSES[severity - 1]
        noisy = random_noise(pixels, "s&p", rng=np.random.default_rng(seed), amount=share)
        return (np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    package = _package()
    own = {"seed": seed} if name == "glass_blur" else {}
    with _lock:  # numpy's old generator belongs to the process
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            return package.corrupt(pixels, severity, name, **own)
        finally:
            np.random.set_state(state)

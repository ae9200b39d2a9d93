"""Images of a run for the report, as small data URIs."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Example, decode, open_data
from ..errors import InputError
from .corrupt import parse_corruption
from .summary import Run

SIDE = 160


class Pictures:
    """Looks up a run's images by their id, in the data it ran on.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        data = run.config["data"]
        self.missing: str | None = None
        self._examples: dict[str, Example] = {}
        try:
            source = data["source"]
            # A run may have been made from another folder than the report.
            local = os.path.join(run.config["directory"], source)  # noqa: PTH118
            where = local if Path(local).exists() else source
            self._data = open_data(
                where, data["split"] or None, data["image_column"], data["label_column"]
            )
            self._examples = {e.id: e for e in self._data.examples}
            self._corruption = parse_corruption(data["corrupt"], run.config["seed"])
        except InputError as error:
            self.missing = str(error)

    def uri(self, name: str) -> str | None:
        """The image as the model saw it before resizing, None if it is gone."""
        example = self._examples.get(name)
        if example is None:
            return None
        try:
            pixels = decode(self._data.read(example), name)
            return thumbnail(pixels if self._corruption is None else self._corruption(pixels))
        except (InputError, OSError):
            return None


def thumbnail(pixels: np.ndarray) -> str:
    """uint8 `[h, w, 3]` to a data URI: small images exactly, others at 160 pixels as JPEG."""
    from PIL import Image

    image: Any = Image.fromarray(pixels)
    file = io.BytesIO()
    kind = "png" if max(image.size) <= 64 else "jpeg"
    if kind == "jpeg":
        image.thumbnail((SIDE, SIDE))
    image.save(file, kind, quality=82)
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()

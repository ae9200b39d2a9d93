"""Images in, pixels out: every source becomes one upright uint8 RGB array.

A file, a PIL image and an array that hold the same pixels give the same array, so that the
noise of an image (see `noise.py`), and with it every score, depends on the pixels alone.

    decode.py     encoded images and PIL images: which formats, which limits, one kind of error
    arrays.py     arrays and tensors
    sources.py    what is an image, and what is many
    files.py      the image files of a folder
    transform.py  the network's square
"""

from .decode import open_image
from .files import image_files
from .sources import Range, digest, is_one, load_image, load_images, split_images
from .transform import affine, fit_square, to_tensor, trim

__all__ = [
    "Range",
    "affine",
    "digest",
    "fit_square",
    "image_files",
    "is_one",
    "load_image",
    "load_images",
    "open_image",
    "split_images",
    "to_tensor",
    "trim",
]

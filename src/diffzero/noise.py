"""Noise that belongs to an image, and draws that nest.

The randomness of an image derives from the user's seed, the shape and uint8 pixels of the
upright image before any resizing, and the number of the draw; nothing else. A score therefore
does not depend on batch size, order, shard or device, and all classes of an image see the same
noise (common random numbers), without which their differences drown.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int) -> np.random.Generator:
    """NumPy's generator of a seed of any sign; that of a negative one wraps around 2^64."""
    return np.random.default_rng(seed % 2**64)


def image_key(seed: int, pixels: np.ndarray) -> int:
    """128-bit key of an image's randomness.

    Args:
        seed: The user's.
        pixels: uint8 `[h, w, 3]`, upright, before resizing.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{seed}:{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest(), "little")


def radical_inverse(n: np.ndarray) -> np.ndarray:
    """Bit-reversed fractions 0, 1/2, 1/4, 3/4, 1/8, ... of the whole numbers `n`, in [0, 1)."""
    n = np.asarray(n, dtype=np.uint64)
    out = np.zeros(n.shape)
    scale = 0.5
    while n.any():
        out += scale * (n & np.uint64(1)).astype(float)
        n = n >> np.uint64(1)
        scale /= 2
    return out


def quantiles(key: int, draws: np.ndarray, block: int | None = None) -> np.ndarray:
    """Place in [0, 1) of each draw: bit-reversed, with one random shift an image, mod 1.

    The first 2^n draws form an even grid for every n, and further draws fill its gaps, so more
    draws refine a score without computing any of it again.

    Args:
        key: Randomness of the image.
        draws: Their numbers, int64 `[n]`.
        block: Draws after which the sequence begins anew with another shift, so that the means of
            blocks are independent; None for one endless sequence, which is the first block's.
    """
    draws = np.asarray(draws)
    of = draws // block if block else np.zeros_like(draws)
    shifts = _generator(key, -1).random(int(of.max(initial=0)) + 1)
    return (radical_inverse(draws - of * (block or 0)) + shifts[of]) % 1.0


def gaussian(key: int, draw: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise of one draw of one image, float32, made on the CPU."""
    return _generator(key, draw).standard_normal(shape, dtype=np.float32)


def dequantisation(key: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform noise in [-1/2, 1/2) of one image, float32: within a grey step."""
    return _generator(key, 0, stream=1).random(shape, dtype=np.float32) - np.float32(0.5)


def probe(key: int, number: int, shape: tuple[int, ...], kind: str = "rademacher") -> np.ndarray:
    """One of Hutchinson's probes of an image: signs, or standard normal numbers, float32."""
    generator = _generator(key, number, stream=2)
    if kind == "gaussian":
        return generator.standard_normal(shape, dtype=np.float32)
    return generator.integers(0, 2, shape).astype(np.float32) * 2 - 1


def jitter(key: int, number: int) -> np.ndarray:
    """Five uniform numbers in [-1, 1) of one augmentation of an image, float32."""
    return _generator(key, number, stream=3).random(5, dtype=np.float32) * 2 - 1


def _generator(key: int, draw: int, stream: int = 0) -> np.random.Generator:
    # The low counter words count within a draw; draw -1 of stream 0 holds the shift.
    counter = np.array([0, 0, stream, int(draw) + 1], dtype=np.uint64)
    philox_key = np.array([key % 2**64, key >> 64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=philox_key, counter=counter))

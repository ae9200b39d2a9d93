"""Where `evaluate` opens its data; see `diffzero.data`."""

from ..data import open_data

__all__ = ["open_data"]

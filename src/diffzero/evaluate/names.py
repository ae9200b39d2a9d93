"""Where `evaluate` reads class names and templates; see `diffzero.data`."""

from ..data import class_set, match_names, read_names, read_templates

__all__ = ["class_set", "match_names", "read_names", "read_templates"]

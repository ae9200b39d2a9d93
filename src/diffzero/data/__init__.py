"""Labelled images: folders, CSV, Parquet, the hub, the bundled digits, and scenes made by code.

Everything that reads images reads them here: `evaluate`, `reproduce`, `train` and `demo`.
"""

from .dataset import Dataset, Example, decode, parse_subset
from .labelled import Labelled, all_captions, caption_words, digits_split, held_out, load
from .names import (
    ClassSet,
    class_set,
    known_sets,
    match_names,
    read_names,
    read_templates,
    set_of_hub,
)
from .sources import from_table, open_data

__all__ = [
    "ClassSet",
    "Dataset",
    "Example",
    "Labelled",
    "all_captions",
    "caption_words",
    "class_set",
    "decode",
    "digits_split",
    "from_table",
    "held_out",
    "known_sets",
    "load",
    "match_names",
    "open_data",
    "parse_subset",
    "read_names",
    "read_templates",
    "set_of_hub",
]

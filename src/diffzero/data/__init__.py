"""Labelled images: folders, CSV, Parquet, the hub, the bundled digits, and scenes made by code.

Everything that reads images with labels reads them here. `open_data` gives a `Dataset`, whose
images are decoded when their turn comes; `load` gives `Labelled`, all images in one array.
"""

from ..words import split_labels
from .arrays import check_validation, load, part_files
from .dataset import Dataset, Example, decode, parse_subset
from .digits import digits_split
from .hub import from_table
from .labelled import Labelled, all_captions, caption_words, held_out
from .labels import class_of
from .matching import match_names
from .names import ClassSet, class_set, known_sets, read_names, read_templates, set_of_hub
from .sources import open_data
from .text_files import read_lines, read_text
from .word_lists import read_words

__all__ = [
    "ClassSet",
    "Dataset",
    "Example",
    "Labelled",
    "all_captions",
    "caption_words",
    "check_validation",
    "class_of",
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
    "part_files",
    "read_lines",
    "read_names",
    "read_templates",
    "read_text",
    "read_words",
    "set_of_hub",
    "split_labels",
]

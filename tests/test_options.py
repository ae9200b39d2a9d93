"""What arguments may be."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

import diffzero as dz
from diffzero.options import (
    FLAG,
    NOTHING,
    WORDS,
    check_options,
    interval,
    number,
    one_of,
    option,
    several,
    whole,
)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (whole(1, 9), [1, 9, np.int64(3)], [0, 10, True, 1.0, "1", math.nan, None, [1], 10**99]),
        (number(0, 1), [0, 1, 0.5, np.float32(0.1)], [-1, 2, math.nan, math.inf, True, "0", 1j]),
        (number(0, 1, above=True), [1, 1e-9], [0, -1]),
        (one_of("a", "b"), ["a", "b"], ["c", "", None, 1, ["a"], b"a"]),
        (interval(0, 1), [(0, 1), [0.2, 0.3]], [(1, 0), (0, 0), (0, 2), (0,), (0, math.nan)]),
        (several(number(0, 1)), [(0.1,), [0, 1]], [(), [], [2], 0.5, "x"]),
        (FLAG, [True, False, np.True_], [0, 1, "yes", None]),
        (WORDS | NOTHING, ["x", None], [1, b"x"]),
    ],
)  # fmt: skip
def test_what_fits(check, good, bad):
    assert all(check.fits(value) for value in good)
    assert not any(check.fits(value) for value in bad)
    assert check.says


def test_the_message_names_argument_rule_and_value():
    @dataclass
    class Thing:
        size: int = option(1, whole(1, 9))

    check_options(Thing())
    with pytest.raises(dz.InputError, match="size must be a whole number from 1 to 9; got 99"):
        check_options(Thing(size=99))

    class Hostile:
        def __repr__(self):
            raise RuntimeError

        def __eq__(self, other):
            raise RuntimeError

    with pytest.raises(dz.InputError, match="size must be .*; got a Hostile"):
        check_options(Thing(size=Hostile()))
    with pytest.raises(dz.InputError, match=r"\.\.\."):
        check_options(Thing(size="x" * 1000))


def test_a_message_keeps_its_ends_whatever_it_was_given():
    long = str(dz.InputError(f"the name must be a word; got {'[' * 5000}. Give a shorter one."))
    assert len(long) < 300
    assert long.startswith("the name must be a word; got [[[") and long.endswith("shorter one.")
    many = str(dz.InputError("no such labels: " + "cat, " * 900 + "dog. Give other labels."))
    assert len(many) < 900 and many.startswith("no such labels") and many.endswith("labels.")
    assert str(dz.InputError("as it is.")) == "as it is."

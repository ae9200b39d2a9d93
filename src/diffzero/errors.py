"""The two ways a call can fail, told apart because the command line exits differently.

A message says what was wrong, what was given, and what to do about it.
"""


class DiffzeroError(Exception):
    """Anything diffzero raises on purpose; the command line exits with 1."""


class InputError(DiffzeroError, ValueError):
    """The caller gave something that cannot be used; the command line exits with 2."""

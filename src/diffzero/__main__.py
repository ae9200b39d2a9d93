"""`python -m diffzero` is `diffzero`."""

from .cli import main

main()

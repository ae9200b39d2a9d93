"""`python -m diffzero` is `diffzero`."""

from .app.cli import main

main()

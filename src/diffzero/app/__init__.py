"""The command line: thin commands over the library, and messages fit for people.

Nothing outside this package imports it. The library returns values, raises and warns; where its
work is long it takes a `progress` or `log` function, so that `console` is this package's alone.
Every module here is imported when `diffzero` starts: what is heavy is imported inside functions.
"""

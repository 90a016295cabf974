"""The one error type that a user is meant to read, and the hint that ends its line."""

import difflib
from collections.abc import Iterable


class AltpropError(Exception):
    """A mistake of the caller, told in one line that says what to do. Command lines print it and exit with 2."""


class UnusableData(AltpropError):
    """Data of the user's that cannot be learned from: a mistake that no run records, unlike data that are not here."""


class Refused(AltpropError):
    """A cell that cannot run, with the sentence that becomes its row in the report."""


class NoiseLeftOut(Refused):
    """A model that takes a noise in its constructor and does not keep it: it would run without it, labelled with it."""


def near(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known names, or all of them where none is near.

    >>> near("bakprop", ["backprop", "dfa"])
    'did you mean backprop?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"did you mean {', '.join(close)}?" if close else f"known are: {', '.join(names) or 'none'}"

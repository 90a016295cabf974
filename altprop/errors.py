"""The one error type that a user is meant to read."""


class AltpropError(Exception):
    """A mistake of the caller, told in one line that says what to do. Command lines print it and exit with 2."""


class Refused(AltpropError):
    """A cell that cannot run, with the sentence that becomes its row in the report."""

"""Learners that send the error back along fixed feedback weights instead of the forward ones."""

if __name__ != "altprop.algorithms.feedback":
    raise ImportError(
        f"this package is called altprop.algorithms.feedback, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

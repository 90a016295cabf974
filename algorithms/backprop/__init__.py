"""Gradient learners: credit by backpropagation, with autograd or by hand."""

if __name__ != "altprop.algorithms.backprop":
    raise ImportError(
        f"this package is called altprop.algorithms.backprop, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

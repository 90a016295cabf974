"""Noise plugins: stochastic layers, one kind a module."""

if __name__ != "altprop.algorithms.dropout":
    raise ImportError(
        f"this package is called altprop.algorithms.dropout, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

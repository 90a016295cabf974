"""Population learners: evolution strategies and genetic algorithms."""

if __name__ != "altprop.algorithms.evolutionary":
    raise ImportError(
        f"this package is called altprop.algorithms.evolutionary, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

"""Credit assignment through time."""

if __name__ != "altprop.algorithms.recurrent":
    raise ImportError(
        f"this package is called altprop.algorithms.recurrent, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

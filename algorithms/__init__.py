"""Learning algorithms, one folder a family, one module and one yaml an algorithm."""

if __name__ != "altprop.algorithms":
    raise ImportError(
        f"this package is called altprop.algorithms, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

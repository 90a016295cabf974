"""Learners that build a structure of their own, such as maps of prototypes."""

if __name__ != "altprop.algorithms.self_organizing":
    raise ImportError(
        f"this package is called altprop.algorithms.self_organizing, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

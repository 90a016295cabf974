"""Learners that use curvature: Newton, Gauss-Newton and their relatives."""

if __name__ != "altprop.algorithms.second_order":
    raise ImportError(
        f"this package is called altprop.algorithms.second_order, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

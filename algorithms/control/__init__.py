"""Controls that should not learn, or only a little: what every real learner has to beat."""

if __name__ != "altprop.algorithms.control":
    raise ImportError(
        f"this package is called altprop.algorithms.control, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

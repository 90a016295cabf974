"""Tasks: data, split, loss and metrics, one module and one yaml a task."""

if __name__ != "altprop.tasks":
    raise ImportError(
        f"this package is called altprop.tasks, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

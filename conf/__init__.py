"""Hydra configuration, found as pkg://altprop.conf: one folder a group, one yaml a choice."""

if __name__ != "altprop.conf":
    raise ImportError(
        f"this package is called altprop.conf, not {__name__}: import it by that name, "
        "and name its files through the folder altprop/ on a command line"
    )

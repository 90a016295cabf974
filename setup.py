"""Finds the packages, so that a new family of plugins needs no line anywhere; the rest stands in pyproject.toml.

algorithms/, tasks/ and conf/ lie at the top of the repository and are installed inside altprop. A folder of theirs that
holds Python is a package, with or without an `__init__.py`.
"""

from setuptools import find_namespace_packages, find_packages, setup

MAPPED = ("algorithms", "conf", "tasks")
kernel = find_packages("altprop", exclude=[pattern for name in MAPPED for pattern in (name, f"{name}.*")])
plugins = [f"{name}.{package}" for name in ("algorithms", "tasks") for package in find_namespace_packages(name)]

setup(packages=sorted(["altprop", *(f"altprop.{package}" for package in (*kernel, *MAPPED, *plugins))]))

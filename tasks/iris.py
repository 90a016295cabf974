"""Iris: three species of flower by four measurements."""

from typing import ClassVar

from altprop.tasks.tables import TableTask


class Iris(TableTask):
    """150 flowers, 50 of each species; sepal and petal length and width.

    Paper: Fisher 1936, The use of multiple measurements in taxonomic problems.
    """

    loader: ClassVar[str] = "load_iris"
    features: ClassVar[int] = 4
    classes: ClassVar[int] = 3

"""Breast cancer Wisconsin: benign or malignant by thirty measurements of cell nuclei."""

from typing import ClassVar

from altprop.tasks.tables import TableTask


class BreastCancer(TableTask):
    """569 patients, 212 malignant (class 0) and 357 benign (class 1).

    Paper: Street, Wolberg and Mangasarian 1993, Nuclear feature extraction for breast tumor diagnosis.
    """

    loader: ClassVar[str] = "load_breast_cancer"
    features: ClassVar[int] = 30
    classes: ClassVar[int] = 2

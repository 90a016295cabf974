"""Wine: three growers by thirteen chemical measurements."""

from typing import ClassVar

from altprop.tasks.tables import TableTask


class Wine(TableTask):
    """178 wines of three growers.

    Paper: Aeberhard, Coomans and de Vel 1992 (the UCI set "Wine").
    """

    loader: ClassVar[str] = "load_wine"
    features: ClassVar[int] = 13
    classes: ClassVar[int] = 3

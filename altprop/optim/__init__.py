"""The optimizer axis: how a direction becomes an update, bound to parameters by name."""

from altprop.optim.factory import NEEDS, OptimizerFactory
from altprop.optim.updater import ROLES, Evaluate, Updater, role_of

__all__ = ["NEEDS", "ROLES", "Evaluate", "OptimizerFactory", "Updater", "role_of"]

"""The public names of `altprop` and where they live.

The front door reads this table, and so does what follows imports to find the code of a plugin.
"""

EXPORTS = {
    "Algorithm": "altprop.algorithm",
    "AltpropError": "altprop.errors",
    "Batch": "altprop.task",
    "BatchMode": "altprop.capabilities",
    "Block": "altprop.models.base",
    "Capability": "altprop.capabilities",
    "Cell": "altprop.models.recurrent",
    "Dense": "altprop.models.base",
    "CircuitModel": "altprop.models.circuit",
    "DirectionAlgorithm": "altprop.direction",
<<<<<<< HEAD
    "Environment": "altprop.environment",
    "Gate": "altprop.models.circuit",
=======
    "Feed": "altprop.task",
>>>>>>> 3046d9d (Feeds are part of the contract: streams, wrapped batches, rows without a label; shuffled_labels is a plugin like any other)
    "Grads": "altprop.derivatives",
    "LayeredModel": "altprop.models.base",
    "Loss": "altprop.losses",
    "MixingNoise": "altprop.noise",
    "ModelSpec": "altprop.task",
    "MultiplicativeNoise": "altprop.noise",
    "Noise": "altprop.noise",
    "OptimizerFactory": "altprop.optim",
    "Oracle": "altprop.oracle",
    "PredictorKind": "altprop.capabilities",
    "Problem": "altprop.problem",
    "Random": "altprop.randomness",
    "RecurrentModel": "altprop.models.recurrent",
    "Reference": "altprop.task",
    "Refused": "altprop.errors",
    "Source": "altprop.task",
    "Split": "altprop.task",
    "StepResult": "altprop.algorithm",
    "Task": "altprop.task",
    "Updater": "altprop.optim",
    "check_name": "altprop.checks",
    "check_number": "altprop.checks",
    "load": "altprop.cli.api",
    "load_trace": "altprop.cli.api",
    "run": "altprop.cli.api",
}

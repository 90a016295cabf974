"""What an algorithm may need and a problem may offer, and the sentence for a pair that does not fit.

This module imports nothing heavy: listings and refusals are made from yaml alone.
"""

from collections.abc import Collection
from enum import StrEnum


class Capability(StrEnum):
    """A thing that an algorithm can require of a problem (task and model together)."""

    GRADIENT = "gradient"
    CURVATURE = "curvature"
    LAYERED = "layered"
    CHAIN = "chain"
    DENSE = "dense"
    RECURRENT = "recurrent"
    SUPERVISED = "supervised"
    CLASSES = "classes"
    VECTORS = "vectors"
    LEAST_SQUARES = "least_squares"
    POINT = "point"
    ENVIRONMENT = "environment"
    BEHAVIOUR = "behaviour"
    STREAM = "stream"
    PLAYERS = "players"
    CIRCUIT = "circuit"

    @property
    def phrase(self) -> str:
        """What is missing, as it stands in a sentence."""
        return _PHRASES[self]


DERIVATIVES = frozenset({Capability.GRADIENT, Capability.CURVATURE})
"""What an objective without a derivative, or a model without one, cannot offer."""
MODEL_OFFERS = frozenset({Capability.GRADIENT})
"""What a model offers whose class says nothing."""
_PHRASES = {
    Capability.GRADIENT: "a differentiable objective",
    Capability.CURVATURE: "a twice differentiable objective",
    Capability.LAYERED: "a model made of blocks",
    Capability.CHAIN: "a model that is a plain chain of blocks",
    Capability.DENSE: "a model of dense blocks without normalisation",
    Capability.RECURRENT: "a recurrent model",
    Capability.SUPERVISED: "targets to learn from",
    Capability.CLASSES: "class labels",
    Capability.VECTORS: "inputs that are plain vectors",
    Capability.LEAST_SQUARES: "a least-squares objective",
    Capability.POINT: "a bare parameter point",
    Capability.ENVIRONMENT: "an environment to act in",
    Capability.BEHAVIOUR: "a behaviour descriptor",
    Capability.STREAM: "a stream of contexts",
    Capability.PLAYERS: "several players",
    Capability.CIRCUIT: "a quantum circuit",
}


class BatchMode(StrEnum):
    """How much of the training data a step is fed: mini-batches, the whole set, or nothing."""

    MINI = "mini"
    FULL = "full"
    NONE = "none"


class PredictorKind(StrEnum):
    """What a predictor is, so that the task knows how to evaluate it.

    Attributes:
        OUTPUT: inputs -> outputs.
        POLICY: observations (N, F) -> actions (N,) or (N, A).
        SAMPLER: (n, random) -> n samples.
        CODE: inputs -> codes (N, C), without labels.
        POINT: inputs -> the parameter point itself, once a row.
        MODEL: the task's model, whatever the task evaluates it as: searches over parameters, and players of a game.
    """

    OUTPUT = "output"
    POLICY = "policy"
    SAMPLER = "sampler"
    CODE = "code"
    POINT = "point"
    MODEL = "model"

    @property
    def phrase(self) -> str:
        """What is predicted, as it stands in a sentence."""
        return _KINDS[self]


_KINDS = {
    PredictorKind.OUTPUT: "outputs",
    PredictorKind.POLICY: "a policy",
    PredictorKind.SAMPLER: "a sampler",
    PredictorKind.CODE: "a code",
    PredictorKind.POINT: "a parameter point",
    PredictorKind.MODEL: "a trained model",
}
OUTPUT_KINDS = (PredictorKind.OUTPUT, PredictorKind.POINT)
"""What a task evaluates that says nothing else."""
# What a model is by itself: a function of inputs, whose outputs an environment turns into actions.
_MODEL_SERVES_AS = (PredictorKind.MODEL, PredictorKind.OUTPUT, PredictorKind.POINT, PredictorKind.POLICY)


def together(task: Collection[Capability], model: Collection[Capability]) -> frozenset[Capability]:
    """Return what a task and a model offer together; players take a model that has them and a task with their losses.

    >>> sorted(together({Capability.PLAYERS, Capability.SUPERVISED}, {Capability.GRADIENT}))
    [<Capability.GRADIENT: 'gradient'>, <Capability.SUPERVISED: 'supervised'>]
    """
    alone = {Capability.PLAYERS} & (set(task) ^ set(model))
    return (frozenset(task) | frozenset(model)) - alone


def refusal(
    algorithm: str,
    requires: Collection[Capability],
    task: str,
    model: str,
    offers: Collection[Capability],
    suggestion: str = "",
) -> str | None:
    """Return the sentence that refuses a cell, or None where the problem offers all that is needed.

    >>> refusal("rtrl", {Capability.RECURRENT}, "digits", "mlp", set(), "task=adding")
    'rtrl needs a recurrent model; task digits with model mlp offers none; try task=adding'
    >>> refusal("null", set(), "digits", "mlp", set()) is None
    True
    """
    missing = [capability for capability in Capability if capability in set(requires) - set(offers)]
    if not missing:
        return None
    needs = " and ".join(capability.phrase for capability in missing)
    sentence = f"{algorithm} needs {needs}; task {task} with model {model} offers none"
    return f"{sentence}; try {suggestion}" if suggestion else sentence


def evaluated_as(kind: PredictorKind, kinds: Collection[PredictorKind]) -> PredictorKind | None:
    """Return the kind among those of a task as which it evaluates a predictor, or None where none fits.

    >>> evaluated_as(PredictorKind.MODEL, {PredictorKind.POLICY})
    <PredictorKind.POLICY: 'policy'>
    """
    if kind is not PredictorKind.MODEL:
        return kind if kind in kinds else None
    return next((found for found in _MODEL_SERVES_AS if found in kinds), None)


def kind_refusal(
    algorithm: str, kind: PredictorKind, task: str, kinds: Collection[PredictorKind], suggestion: str = ""
) -> str | None:
    """Return the sentence that refuses a cell whose task cannot evaluate what the algorithm learns, or None.

    >>> kind_refusal("dfa", PredictorKind.OUTPUT, "cartpole", (PredictorKind.POLICY,), "task=digits")
    'dfa learns outputs; task cartpole evaluates a policy; try task=digits'
    """
    if evaluated_as(kind, kinds) is not None:
        return None
    known = " or ".join(found.phrase for found in PredictorKind if found in kinds)
    sentence = f"{algorithm} learns {kind.phrase}; task {task} evaluates {known or 'nothing'}"
    return f"{sentence}; try {suggestion}" if suggestion else sentence

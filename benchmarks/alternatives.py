"""Alternatives to backpropagation beside other libraries: test accuracy on digits, and seconds a step.

An MLP 64-64-64-10 with the same initial weights and the same batches of 64 for all, Adam at .001, one thread. Other
libraries stand beside ours where they can be imported (`benchmarks.peers.alternatives`), or it is said why not. fflib
hands on vectors of length 1, where ours have a root mean square of 1, and learns next to nothing at our options: it has
ten times the learning rate and the best of four thresholds (.01 to 1).
"""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from altprop.algorithm import Algorithm
from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.energy.predictive_coding import PredictiveCoding
from altprop.algorithms.feedback.dfa import DirectFeedbackAlignment
from altprop.algorithms.feedback.feedback_alignment import FeedbackAlignment
from altprop.algorithms.feedback.sign_symmetry import SignSymmetry
from altprop.algorithms.local.forward_forward import ForwardForward
from altprop.capabilities import Capability
from altprop.data import Batch, Split
from altprop.models.mlp import MLP
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.tasks.digits import Digits
from altprop.testing import make_problem, set_up
from benchmarks.peers import alternatives
from benchmarks.peers.alternatives import Peer, Weights
from benchmarks.timing import Table, interleave

EPOCHS, SEEDS, ROWS, STEPS = 40, 3, 64, 10
PC_STEPS, PC_RATE, THRESHOLD = 20, 0.1, 0.3
ADAM = OptimizerFactory("torch.optim.Adam", lr=alternatives.LR)
OFFERS = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})


def fresh(seed: int) -> MLP:
    """Return the net as all begin."""
    return MLP(Digits().spec, [64, 64], generator=generator_for(seed, "initialisation"))


def weights_of(seed: int) -> Weights:
    """Return the initial weights as tensors of their own."""
    return [(block.weight.detach().clone(), block.bias.detach().clone()) for block in fresh(seed).blocks]


def ours(make: Callable[[], Algorithm], seed: int) -> Peer:
    """Return a learner of ours, with its first steps audited and no other."""
    problem = make_problem(fresh(seed), "cross_entropy", seed=seed, offers=OFFERS)
    rule = set_up(make(), problem)

    def learn(inputs: Tensor, targets: Tensor) -> None:
        rule.step(Batch(inputs, targets, torch.arange(len(inputs))))
        problem.ledger.auditing = problem.ledger.steps < 4

    def predict(inputs: Tensor) -> Tensor:
        with rule.predictor() as outputs, torch.no_grad():
            return outputs(inputs).argmax(1)

    return Peer(learn, predict)


def learners() -> dict[str, Callable[[int], Peer]]:
    """Return name -> seed -> learner: each of ours before the same rule of another library, as far as it is there."""
    rules: dict[str, Callable[[], Algorithm]] = {
        "feedback_alignment": lambda: FeedbackAlignment(ADAM),
        "dfa": lambda: DirectFeedbackAlignment(ADAM),
        "sign_symmetry": lambda: SignSymmetry(ADAM),
        "predictive_coding": lambda: PredictiveCoding(ADAM, steps=PC_STEPS, rate=PC_RATE),
        "forward_forward": lambda: ForwardForward(ADAM, THRESHOLD, "uniform"),
    }
    others: dict[str, tuple[str, str, Callable[[Weights], Peer]]] = {
        "feedback_alignment": ("biotorch.module.biomodule", "BioTorch fa", partial(alternatives.biotorch, "fa")),
        "dfa": ("biotorch.module.biomodule", "BioTorch dfa", partial(alternatives.biotorch, "dfa")),
        "sign_symmetry": ("biotorch.module.biomodule", "BioTorch usf", partial(alternatives.biotorch, "usf")),
        "predictive_coding": ("pcx", "PCX", partial(alternatives.pcx, steps=PC_STEPS, rate=PC_RATE)),
        "forward_forward": ("fflib.nn.ff_net", "fflib", partial(alternatives.fflib, threshold=0.01, lr=0.01)),
    }
    reasons = {module: alternatives.missing(module) for module, _, _ in others.values()}
    print("\n".join(filter(None, reasons.values())))
    found: dict[str, Callable[[int], Peer]] = {"backprop": partial(ours, lambda: Backprop(ADAM))}
    for name, make in rules.items():
        found[name] = partial(ours, make)
        module, label, peer = others[name]
        if not reasons[module]:
            found[label] = partial(lambda peer, seed: peer(weights_of(seed)), peer)
    return found


def batches(train: Split, seed: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets of whole batches, the same for every learner."""
    generator = generator_for(seed, "order")
    for _ in range(epochs):
        for index in torch.randperm(len(train.inputs), generator=generator).split(ROWS):
            if len(index) == ROWS:
                yield train.inputs[index], train.targets[index]


def accuracy(peer: Peer, train: Split, test: Split, seed: int) -> float:
    """Train a learner and return its accuracy on the test set."""
    for inputs, targets in batches(train, seed, EPOCHS):
        peer.learn(inputs, targets)
    return float((peer.predict(test.inputs) == test.targets).double().mean())


def show_dead_weights(train: Split, test: Split) -> None:
    """Print what BioTorch's constraint on the norms of weights does to its training."""
    peer = alternatives.biotorch("fa", weights_of(0), constrained=True)
    untrained = float((peer.predict(test.inputs) == test.targets).double().mean())
    reached = accuracy(peer, train, test, 0)
    print(
        f"BioTorch fa, constrain_weights: accuracy {untrained:.3f} before and {reached:.3f} after; weights moved by "
        f"{peer.moved():.0e} of their norm: each pass puts a new tensor in the place of the one that Adam steps"
    )


def stepping(peer: Peer, train: Split) -> Callable[[], float]:
    """Return so many steps of a learner."""
    fed = list(batches(train, 0, 1))

    def go() -> float:
        for place in range(STEPS):
            peer.learn(*fed[place % len(fed)])
        return STEPS

    return go


def run(rounds: int) -> list[Table]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    data = Digits().data().to(torch.device("cpu"), torch.float32)
    train, test = data.train, data.tests["test"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hooks and options that other libraries use and torch has left behind
        made = learners()
        for name, make in made.items():
            reached = [accuracy(make(seed), train, test, seed) for seed in range(SEEDS)]
            spread = f"{min(reached):.3f} to {max(reached):.3f}"
            print(f"{name:34}{sum(reached) / SEEDS:.3f} ({spread}), {EPOCHS} epochs, {SEEDS} seeds")
        if "BioTorch fa" in made:
            show_dead_weights(train, test)
        ways = {name: stepping(make(0), train) for name, make in made.items()}
        started = time.perf_counter()
        found = interleave(ways, rounds, warm=2)
        seconds = time.perf_counter() - started
    title = f"alternatives: a step of an MLP 64-64-64-10, batch {ROWS}, Adam; {rounds} rounds in {seconds:.0f} s"
    return [Table(title, "backprop", "seconds a step", found)]

"""What surrounds a training: torch's threads and global generators, and the signals that end it."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from altprop.randomness import derive_seed


class Stoppable(Protocol):
    """What can be asked to end after the block at hand.

    Attributes:
        stop_requested: whether it was asked.
    """

    stop_requested: bool


@contextlib.contextmanager
def quiet(threads: int, seed: int) -> Iterator[None]:
    """Run on `threads` torch threads, with the global generators seeded for plugins that use them; put all back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(derive_seed(seed, "global"))
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(deterministic)


@contextlib.contextmanager
def stoppable(training_run: Stoppable) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the run after the block at hand, so that it can be resumed; a second one is hard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if training_run.stop_requested:
            raise KeyboardInterrupt
        training_run.stop_requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        # Lightning answers SIGTERM with a SystemExit of its own, after `ask` asked the run to stop.
        if not training_run.stop_requested:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Children of a warmed process; each imports altprop afresh in a few hundredths of a second, then dies with its mutant.

The parent has imported what is slow (torch, pytest, scipy) and runs no thread, so that a fork of it is whole.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from .killing import Outcome

# Imported by many killers; what is missing here costs time and nothing else.
SLOW = """
    torch torch._dynamo torch.func torch.utils.data torch.utils.flop_counter pytorch_lightning
    hydra hydra.core.override_parser.overrides_parser hydra._internal.config_loader_impl
    deap.tools matplotlib.pyplot pandas scipy.stats sklearn.datasets sklearn.ensemble
    yaml pytest pdb xml.etree.ElementTree
""".split()
# A mutant may loop for ever; the slowest killer takes a few seconds.
PATIENCE = 120.0


def warm() -> None:
    """Import what is slow, on one thread."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    for name in SLOW:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children then leave these pages shared


def run(jobs: Sequence[Callable[[], Outcome]], workers: int) -> Iterator[tuple[int, Outcome, float]]:
    """Run each job in a child of its own, so many at once; yield (index, outcome, seconds) as they end."""
    context = multiprocessing.get_context("fork")
    waiting = list(enumerate(jobs))[::-1]
    busy: dict[Connection, tuple[int, BaseProcess, float]] = {}
    while waiting or busy:
        while waiting and len(busy) < workers:
            index, job = waiting.pop()
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(job, theirs))
            sys.stdout.flush()
            child.start()
            theirs.close()
            busy[ours] = index, child, time.monotonic()
        oldest = min(started for _, _, started in busy.values())
        for pipe in wait(list(busy), max(0.0, oldest + PATIENCE - time.monotonic())):
            assert isinstance(pipe, Connection)
            index, child, started = busy.pop(pipe)
            try:
                outcome = pipe.recv()
            except EOFError:
                child.join()
                outcome = Outcome("crashed", f"the process ended with exit code {child.exitcode}")
            child.join()
            yield index, outcome, time.monotonic() - started
        for pipe, (index, child, started) in list(busy.items()):
            if time.monotonic() - started >= PATIENCE:
                del busy[pipe]
                child.kill()
                child.join()
                yield index, Outcome("crashed", f"no end after {PATIENCE:.0f} s"), time.monotonic() - started


def _child(job: Callable[[], Outcome], pipe: Connection) -> None:
    """Send a job's outcome; what it prints is nobody's concern."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    pipe.send(job())

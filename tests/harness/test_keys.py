"""The code in a run's key: each module, edited in a copy of altprop, changes the keys of just the cells that use it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import altprop

CELLS = {
    "null": ["algorithm=null", "task=digits"],
    "null unprobed": ["algorithm=null", "task=digits", "probes=off"],
    "backprop": ["algorithm=backprop", "optimizer=adam", "task=digits", "model=mlp"],
    "backprop dropout": ["algorithm=backprop", "optimizer=adam", "task=digits", "dropout=standard"],
    "dfa cnn": ["algorithm=dfa", "optimizer=sgd", "task=mnist1d", "model=cnn"],
    "bptt gru": ["algorithm=bptt", "task=adding", "model=gru"],
    "som": ["algorithm=som", "task=iris"],
}
EVERY = set(CELLS)
PROBED = EVERY - {"null unprobed"}
DIRECTION = {"backprop", "backprop dropout", "dfa cnn", "bptt gru"}
DIGITS = {"null", "null unprobed", "backprop", "backprop dropout"}

# A module in no row is expected to change nothing.
USES = {
    "acting": EVERY,
    "algorithm": EVERY,
    "capabilities": EVERY,
    "chain": EVERY,
    "checks": EVERY,
    "closed_form": EVERY,
    "closed_form_time": EVERY,
    "derivatives": EVERY,
    "direction": DIRECTION,
    "environment": EVERY,
    "errors": EVERY,
    "flops": EVERY,
    "ledger": EVERY,
    "work": EVERY,
    "linearization": EVERY,
    "losses": EVERY,
    "monte_carlo": EVERY,
    "noise": EVERY,
    "objective": EVERY,
    "problem": EVERY,
    "randomness": EVERY,
    "ranks": EVERY,
    "recurrence": EVERY,
    "vectorized": EVERY,
    "resolve": DIRECTION,
    "data": EVERY,
    "task": EVERY,
    "optim": DIRECTION,
    "optim.clipping": DIRECTION,
    "optim.cost": DIRECTION,
    "optim.factory": DIRECTION,
    "optim.foreign": DIRECTION,
    "optim.schedule": DIRECTION,
    "optim.stability": DIRECTION,
    "optim.state": DIRECTION,
    "optim.updater": DIRECTION,
    "probes.basic": PROBED,
    "probes.nullband": PROBED,
    "models.base": EVERY,
    "models.parts": EVERY,
    "models.mlp": DIGITS | {"som"},
    "models.cnn": {"dfa cnn"},
    "models.recurrent": {"bptt gru"},
    "tasks.common": EVERY,
    "tasks.digits": DIGITS,
    "tasks.mnist1d": {"dfa cnn"},
    "tasks.adding": {"bptt gru"},
    "tasks.iris": {"som"},
    "tasks.tables": {"som"},
    "tasks.scikit_learn": DIGITS | {"som"},
    "algorithms.control.null": {"null", "null unprobed"},
    "algorithms.backprop.backprop": {"backprop", "backprop dropout"},
    "algorithms.dropout.rates": {"backprop dropout"},
    "algorithms.dropout.standard": {"backprop dropout"},
    "algorithms.feedback.dfa": {"dfa cnn"},
    "algorithms.recurrent.bptt": {"bptt gru"},
    "algorithms.recurrent.horizon": {"bptt gru"},
    "algorithms.self_organizing.som": {"som"},
}
EDITS = """
import json, sys
from pathlib import Path
from omegaconf import OmegaConf
import altprop
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.harness.planning import sources
from altprop.records.source import _closure

home = Path(altprop.__file__).parent
cells = {}
for name, overrides in json.loads(sys.argv[1]).items():
    cells[name] = make_cell(OmegaConf.to_container(compose_cell(overrides), resolve=True), overrides)
before = {name: sources(cell) for name, cell in cells.items()}
changed = {}

def module(path):
    inner = path.relative_to(home).with_suffix("").parts
    return ".".join(inner[:-1] if inner[-1] == "__init__" else inner)

def edit(paths):
    '''Edit files at once; where that changes a cell, each half of them, down to the file that does.'''
    texts = [path.read_bytes() for path in paths]
    for path, text in zip(paths, texts):
        path.write_bytes(text + b"\\nappended = 1\\n")
    found = [name for name, cell in cells.items() if sources(cell) != before[name]]
    for path, text in zip(paths, texts):
        path.write_bytes(text)
    if found and len(paths) == 1:
        changed[module(paths[0])] = found
    elif found:
        edit(paths[: len(paths) // 2])
        edit(paths[len(paths) // 2 :])

every = sorted(home.rglob("*.py"))
alone = json.loads(sys.argv[2])
for path in every:
    if module(path) in alone:
        edit([path])
edit([path for path in every if module(path) not in alone])
print(json.dumps([str(home), changed, len(_closure(["altprop.algorithms.control.null"])), "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, set[str]], int]:
    """Edit a copy, modules that should change something one by one: module -> cells that changed; how many null has."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(altprop.__file__).parent, folder / "altprop", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", EDITS, json.dumps(CELLS), json.dumps(list(USES))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    home, changed, modules, torch = json.loads(done.stdout)
    assert Path(home) == folder / "altprop", "the copy was not what was imported"
    assert not torch
    return {name: set(cells) for name, cells in changed.items()}, modules


def test_each_module_changes_the_keys_of_just_those_cells_that_use_it(edited: tuple[dict[str, set[str]], int]) -> None:
    found, expected = edited[0], USES
    different = {
        name: (found.get(name, set()), expected.get(name, set()))
        for name in sorted({*found, *expected})
        if found.get(name, set()) != expected.get(name, set())
    }
    assert not different, f"module: (changed, expected) {different}"


def test_null_depends_on_few_modules(edited: tuple[dict[str, set[str]], int]) -> None:
    print(f"null depends on {edited[1]} modules")
    # 29 to 35 while its oracles and optim were followed too; 26 with the gradient through time and Monte Carlo passes.
    assert edited[1] <= 26

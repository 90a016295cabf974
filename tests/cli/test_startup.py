"""What a command imports, and when: without absolute times, the structure that makes it start fast."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = ["algorithm=backprop", "task=digits", "budget.currency=steps", "budget.amount=5", "budget.grid=1"]
LISTENING = """
import gc, json, sys
told = {}
HEAVY = {"torch", "pytorch_lightning", "sklearn", "pandas", "scipy", "matplotlib"}

def tell(when):
    told.setdefault(when, sorted(HEAVY & set(sys.modules)))

class Listener:
    def find_spec(self, name, path=None, target=None):
        if name == "pytorch_lightning":
            tell("before Lightning")
            told["collecting"] = gc.isenabled()

sys.meta_path.insert(0, Listener())
from altprop.cli.run import run
import altprop.harness.execution as execution
planned = execution.plan

def plan(cell):
    found = planned(cell)
    tell("planned")
    if "torch" in sys.modules:
        from altprop.algorithm import Algorithm
        whole = Algorithm.step

        def step(self, batch):
            tell("at the first step")
            return whole(self, batch)

        Algorithm.step = step
    return found

execution.plan = plan
code = run(sys.argv[1:])
tell("at the end")
print(json.dumps({**told, "code": code}))
"""


def _told(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", LISTENING, *COMMAND, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0
    return found


def test_a_command_that_trains_imports_torch_and_lightning_and_a_warm_one_neither(tmp_path: Path) -> None:
    cold = _told(tmp_path, "report=false")
    assert cold["planned"] == cold["before Lightning"] == ["torch"]  # the data are loaded without more
    assert cold["collecting"] is False
    # torchmetrics, which Lightning imports, imports scipy.signal and matplotlib.pyplot where they are installed.
    assert set(cold["at the first step"]) <= {"torch", "pytorch_lightning", "scipy", "matplotlib"}
    assert _told(tmp_path, "report=false")["at the end"] == []
    _told(tmp_path)  # measures the oracle checks
    assert {"torch", "pytorch_lightning", "sklearn"}.isdisjoint(_told(tmp_path)["at the end"])


ONLINE = ("rtrl", "snap", "uoro", "kf_rtrl", "rflo", "eprop", "bptt", "truncated_bptt", "reservoir")


def test_what_is_refused_imports_neither_lightning_nor_data(tmp_path: Path) -> None:
    """Each rule of recurrent nets on a feed-forward task and on a model without a cell: a sentence, and no more."""
    code = (
        "import sys; from altprop.cli.run import run; code = run(sys.argv[1:]); "
        "print(sorted({'pytorch_lightning', 'sklearn', 'scipy'} & set(sys.modules)), code)"
    )
    for task in (["task=digits"], ["task=adding", "model=mlp"]):
        command = [sys.executable, "-c", code, "-m", f"algorithm={','.join(ONLINE)}", *task, "report=false"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        for rule in ONLINE:
            name = task[0].removeprefix("task=")
            sentence = f"{rule} needs a recurrent model; task {name} with model mlp offers none; try task=adding"
            assert sentence in done.stderr
        assert done.stdout.splitlines()[-1].startswith("[] ")

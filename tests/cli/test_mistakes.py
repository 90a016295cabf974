"""Mistakes in a command: one sentence that says what to do, exit code 2, no record, and torch is never imported."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = "import sys; from altprop.cli.run import run; code = run(sys.argv[1:]); print('torch' in sys.modules, code)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("+seed=3", "seed is no option; say seeds=[3]"),
        ("seed=3", "seed is no option; say seeds=[3]"),
        ("+optmizer.lr=.5", "optmizer is no option; did you mean optimizer?"),
        ("+algorithms=dfa", "algorithms is no option; did you mean algorithm?"),
        ("+trainer.max_epochs=3", "say budget.currency=epochs budget.amount=3"),
        ("+max_steps=3", "say budget.currency=steps budget.amount=3"),
        ("+trainer.acelerator=gpu", "trainer.acelerator is no option; did you mean accelerator?"),
        ("+probes.row=3", "probes.row is no option; did you mean rows?"),
        ("+logger.projekt=a", "logger.projekt is no option; did you mean project?"),
        ("+budget.amounts=3", "budget.amounts is no option; did you mean amount?"),
        ("budget.curency=steps", "budget.curency is no option; did you mean currency?"),
        ("trainer=null", "trainer=null names nothing; known are: cpu, ddp, gpu"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: str, words: str) -> None:
    command = [sys.executable, "-c", COMMAND, *arguments.split(), "report=false"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert words in answer.stderr
    assert answer.stdout == "False 2\n", answer.stdout
    assert answer.stderr.startswith("altprop: ")
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()

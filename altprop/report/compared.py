"""Section 1: what was compared, with the numbers: what became of each cell, each learner's settings, each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from altprop.report.blocks import Block, Cell, Grid, Points, Text
from altprop.report.failures import Matrix
from altprop.report.format import count, number, setting
from altprop.report.identity import batch_size
from altprop.report.model import Learner, Report, Run, Table
from altprop.report.settings import NO_SETTING, settings
from altprop.report.trials import tuned_block

RATE, POPULATION = "lr", "population"
_OFF: tuple[Any, ...] = (None, False, "constant", [])


def compared(report: Report, cells: Matrix) -> list[Block]:
    """Return the section: learners and tasks, why cells were refused, settings of the learners, facts of the tasks."""
    head: list[Cell | str] = ["learner", *(Cell(table.workload, kind="wrap") for table in report.tables)]
    rows: list[list[Cell | str]] = [[Cell(learner=one), *row] for one, row in cells.rows]
    found: list[Block] = [
        Text("Every learner on every task, with what became of its runs. A refusal says what the learner lacks."),
        Grid("What became of the runs", head, rows),
    ]
    if cells.sentences:
        found += [Text("Why cells were refused", "h4"), Points(cells.sentences, "refusal")]
    same = [f"{name} has the very results of {first} in every run" for name, first in report.twins.items()]
    if same:
        found.append(Text(f"{'; '.join(same)}: the same rule here under two names, counted once.", "note"))
    found += [Text("The learners", "h4"), _learners(report), Text("The tasks", "h4"), _tasks(report.tables)]
    return found


def _learners(report: Report) -> Grid:
    """Return the settings of each learner; of one that differs between tasks, the values in the order of the tasks."""
    runs = {one.name: _firsts(report, one) for one in report.learners}
    flat = {name: [_options(run) for run in found] for name, found in runs.items()}
    population = any(POPULATION in options for several in flat.values() for options in several)
    head: list[Cell | str] = [
        "learner",
        Cell("learning rate", kind="r"),
        *([Cell("population", kind="r")] if population else []),
        "batch",
        "other settings",
        Cell("tuning trials", kind="r"),
        Cell("seeds", kind="r"),
    ]
    rows: list[list[Cell | str]] = []
    for one in report.learners:
        mine, several = runs[one.name], flat[one.name]
        others = dict.fromkeys(key for options in several for key in options if key not in (RATE, POPULATION))
        said = [f"{key.replace('_', ' ')} {_over(several, key)}" for key in others]
        blocks = [block for run in mine if (block := tuned_block(run.record)) is not None]
        trials = dict.fromkeys(block.effort for block in sorted(blocks, key=lambda block: (block.trials, block.seeds)))
        rows.append(
            [
                Cell(learner=one),
                Cell(_over(several, RATE), kind="r"),
                *([Cell(_over(several, POPULATION), kind="r")] if population else []),
                " / ".join(dict.fromkeys(map(_batch, mine))) or "–",
                Cell("; ".join(said) or "–", kind="o"),
                Cell(" / ".join(trials) or "none", kind="r"),
                Cell(" / ".join(_seeds(report, one)) or "–", kind="r"),
            ]
        )
    return Grid("Settings of the learners", head, rows)


def _firsts(report: Report, learner: Learner) -> list[Run]:
    """Return one run of each task that the learner did not refuse."""
    return [tried[0] for table in report.tables if (tried := table.tried(learner.name))]


def _seeds(report: Report, learner: Learner) -> list[str]:
    found = (len(table.tried(learner.name)) for table in report.tables)
    return list(dict.fromkeys(str(n) for n in found if n))


def _batch(run: Run) -> str:
    """Return the batch size, or what the ledger shows instead where a learner takes more than it at a step."""
    declared, samples, steps = batch_size(run), run.spent("samples"), run.spent("steps")
    rows = samples / steps if samples and steps else 0.0
    if declared.isdigit() and rows <= 1.5 * int(declared):
        return declared
    whole = abs(rows - float((run.result.get("sizes") or {}).get("train") or 0)) < 1
    return "all" if whole else f"{rows:.0f} rows a step" if rows else declared or "–"


def _options(run: Run) -> dict[str, Any]:
    """Return the settings of a run's learner by their last name; of two alike the outer one."""
    found: dict[str, Any] = {}
    for path, value in settings(run.record).items():
        parts = path.split(".")
        off = value in _OFF or (isinstance(value, float) and value == 0.0)
        if parts[0] in ("algorithm", "optimizer", "dropout") and parts[-1] not in NO_SETTING and not off:
            key = " ".join(part for part in parts[1:] if part != "optimizer")
            found.setdefault(key, value)
    return found


def _over(several: Sequence[dict[str, Any]], key: str) -> str:
    """Return a setting in words: one value where all tasks have it, else those of the tasks in their order."""
    values = [_written(options[key]) if key in options else "–" for options in several]
    return " / ".join(values if len(set(values)) > 1 else values[:1]) or "–"


def _written(value: Any) -> str:
    return ", ".join(map(setting, value)) if isinstance(value, list) else setting(value)


def _tasks(tables: Sequence[Table]) -> Grid:
    head: list[Cell | str] = ["task", "model", "batch", "metric", Cell("chance", kind="r"), Cell("oracle", kind="r")]
    head += ["targets", "baselines", "examples", "budget a run"]
    return Grid("Tasks", head, [_task(table) for table in tables])


def _task(table: Table) -> list[Cell | str]:
    facts = table.facts
    budget, first = facts.get("budget") or {}, next(iter(table.everything), None)
    unit = str(budget.get("currency", "")).replace("flops", "FLOPs").replace("_", " ")
    sizes = list(dict.fromkeys(batch_size(run) for name in table.runs for run in table.tried(name)))
    return [
        Cell(table.workload, kind="wrap"),
        Cell(_model(first) if first else "–", kind="t"),
        " / ".join(size or "–" for size in sizes) or "–",
        f"{table.metric}, {'higher' if table.sign > 0 else 'lower'} is better",
        Cell(number(facts.get("chance")), kind="r"),
        Cell(number(facts.get("oracle")), kind="r"),
        Cell(_listed(table.targets) or "none declared", kind="t"),
        Cell(_listed(facts.get("baselines") or {}) or "–", kind="t"),
        Cell(", ".join(f"{n} {split}" for split, n in (facts.get("sizes") or {}).items()) or "–", kind="t"),
        f"{count(budget['amount'])} {unit}" if budget.get("amount") else "–",
    ]


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('%', ' %')}: {number(at)}" for name, at in values.items())


def _model(run: Run) -> str:
    """Return the model with its sizes, such as "mlp: hidden 64, 32; activation relu"."""
    options = {p.split(".", 1)[1]: v for p, v in settings(run.record).items() if p.startswith("model.")}
    said = [f"{key} {_written(v)}" for key, v in options.items() if key not in NO_SETTING and v not in (*_OFF, "none")]
    name = str(run.record.data["axes"].get("model") or "–")
    return f"{name}: {'; '.join(said)}" if said else name

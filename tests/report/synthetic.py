"""Synthetic runs in the schema of altprop.records: learners with a made-up speed, ceiling and health.

Nothing here is trained. `write` puts plausible records into a folder, the same bytes for the same arguments.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from altprop.records import encode

LAYERS = ("blocks.0", "blocks.1", "blocks.2", "blocks.3")


@dataclass(frozen=True)
class Task:
    name: str
    metric: str = "accuracy"
    higher: bool = True
    chance: float = 0.1
    tuned: float = 0.95
    oracle: float | None = None
    baselines: dict[str, float] = field(default_factory=lambda: {"linear": 0.9})
    model: str = "mlp"
    flops: float = 2e9
    contexts: tuple[str, ...] = ()  # of a stream, each with a test set of its own
    caption: str = ""  # of what the task wants drawn

    @property
    def panels(self) -> list[dict[str, Any]]:
        """What the task wants drawn: every kind that there is, and one that there is not, where it has contexts."""
        wanted = [("curves", ["loss"]), ("trajectory", [self.metric, "loss"]), ("matrix", []), (self.caption, ["x"])]
        return [{"kind": kind, "metrics": names, "caption": self.caption} for kind, names in wanted if self.contexts]


@dataclass(frozen=True)
class Learner:
    algorithm: str
    optimizer: str = "none"
    share: float = 1.0  # of the gap from chance to the tuned reference
    speed: float = 8.0
    step_flops: float = 1.2e6
    saved: int = 400_000
    align: float | None = 0.9
    slope: float = -0.2
    control: bool = False
    reference: bool = False
    statuses: dict[str, Any] = field(default_factory=dict)  # task name -> status, or seed -> status
    label: str = ""
    search: dict[str, dict[str, Any]] = field(default_factory=dict)  # declared space by option
    defaults: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)  # where the options are at their best
    brings: tuple[str, ...] = ()  # diagnostics of its own

    @property
    def name(self) -> str:
        return self.label or (self.algorithm if self.optimizer == "none" else f"{self.algorithm}+{self.optimizer}")


TASKS = (
    Task("digits", chance=0.1, tuned=0.945, baselines={"linear": 0.914, "1-NN": 0.951}),
    Task(
        "mnist1d",
        chance=0.1,
        tuned=0.64,
        baselines={"linear": 0.315},
        flops=6e9,
        contexts=("one", "two"),
        caption="So.",
    ),
    Task("adding", "mse", False, chance=1 / 6, tuned=0.004, oracle=0.0, baselines={}, model="gru", flops=4e10),
)

LEARNERS = (
    Learner("backprop", "adam", 1.0, 9, align=0.96, reference=True),
    Learner("backprop", "sgd", 0.985, 5, align=0.99),
    Learner("manual_backprop", "none", 0.985, 5.1, align=0.99, statuses={"adding": "refused"}),
    Learner("dfa", "adam", 0.95, 5.5, 1.0e6, 60_000, align=0.35, slope=0.05, statuses={"adding": "refused"}),
    Learner("evolution_strategy", "none", 0.72, 2.5, 1.6e7, 0, align=0.08),
    Learner(
        "newton_cg",
        "none",
        0.99,
        11,
        9e6,
        900_000,
        align=0.7,
        statuses={"mnist1d": {1: "diverged"}},
        brings=("damping", "gap"),
    ),
    Learner("som", "none", 0.86, 14, 7e5, 0, align=None, statuses={"adding": "refused"}, brings=("dead units",)),
    Learner("null", "none", 0.0, 1, 4e5, 0, align=None, control=True),
    Learner("random_direction", "none", 0.04, 1, 5e5, 0, align=0.0, control=True),
)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _trace(task: Task, learner: Learner, seed: int, end: float, rng: np.random.Generator) -> dict[str, Any]:
    """Rows of trace and clock up to the fraction `end`, and what became of the metric."""
    rows: list[dict[str, Any]] = []
    clock: list[dict[str, Any]] = []
    ceiling = learner.share * (1 + 0.01 * rng.standard_normal())
    speed = learner.speed * math.exp(0.15 * rng.standard_normal())
    example = task.flops / 2e5

    def metric(fraction: float) -> float:
        share = ceiling * (1 - math.exp(-speed * fraction)) + 0.006 * rng.standard_normal()
        if task.higher:
            return task.chance + min(share, 1.04) * (task.tuned - task.chance)
        return float(task.chance * (task.tuned / task.chance) ** (0.15 * share + 0.85 * share**2))

    last = 0.0
    steps_per = task.flops / learner.step_flops
    for grid in np.round(np.linspace(0, 1, 21), 4).tolist():
        if grid > end:
            break
        step = round(grid * steps_per)
        flops = step * learner.step_flops
        last = metric(grid)
        loss = last if not task.higher else 2.3 * (1.02 - (last - task.chance) / (1 - task.chance))
        where = {"step": step, "fraction": flops / task.flops, "flops": flops, "samples": step * 64}
        counts = {"forward_equivalents": flops / example, "forwards": step, "backwards": step, "hvps": 0}
        rows.append(
            {
                "kind": "evaluation",
                "split": "validation",
                "grid": grid,
                **where,
                **counts,
                "evaluations": 0,
                "metrics": {task.metric: last, "loss": loss},
            }
        )
        seconds = step * (8e-4 + learner.step_flops * 2e-10) * (1 + 0.02 * rng.standard_normal())
        clock.append(
            {
                "step": step,
                "fraction": where["fraction"],
                "cpu_seconds": seconds,
                "wall_seconds": seconds * 1.1,
                "probe_seconds": seconds * 0.05,
            }
        )
        if grid > 0:
            rows.append({"kind": "train", "step": step, "fraction": where["fraction"], "loss": loss, "scalars": {}})
            own = {"own": {name: _own(name, grid) for name in learner.brings}} if learner.brings else {}
            rows.append({"kind": "probe", **where, **_probe(learner, grid, rng), **own})
    return {"rows": rows, "clock": clock, "metric": last}


def _probe(learner: Learner, grid: float, rng: np.random.Generator) -> dict[str, Any]:
    if learner.algorithm == "som":
        return {"values": {}, "layers": {}, "note": "not applicable"}
    if learner.algorithm == "null":
        return {"values": {"update_norm": 0.0}, "layers": {}, "note": "no update"}
    base = -1.5 - 1.2 * grid + 0.05 * rng.standard_normal()
    align = (learner.align or 0.0) + 0.02 * rng.standard_normal()
    inside = abs(align) < 0.06
    values = {
        "gradient_norm": 10**base * 8,
        "forward_slope": learner.slope,
        "backward_slope": learner.slope,
        "update_norm": 0.02,
        "update_ratio": 10 ** (-2.6 - 0.8 * grid + 0.05 * rng.standard_normal()),
        "alignment": align,
        "alignment_low": -0.06,
        "alignment_high": 0.06,
        "descent_efficiency": None if inside else 0.6 + 0.3 * (learner.align or 0) + 0.03 * rng.standard_normal(),
    }
    layers = {}
    for depth, layer in enumerate(LAYERS):
        towards_input = len(LAYERS) - 1 - depth
        layers[layer] = {
            "gradient_rms": 10 ** (base + learner.slope * -towards_input * -1.0 - 1),
            "forward_signal": 10 ** (learner.slope * depth),
            "backward_signal": 10 ** (base + learner.slope * towards_input),
            "passed": 0.5,
            "update_ratio": values["update_ratio"] * (1 + 0.2 * depth),
            "dead_fraction": None if layer == LAYERS[-1] else 0.05 + 0.1 * grid,
            "saturated_fraction": None if layer == LAYERS[-1] else 0.01,
            "alignment": align * (0.8 + 0.06 * depth),
            "alignment_low": -0.08,
            "alignment_high": 0.08,
        }
    return {"values": values, "layers": layers, "note": None}


def _own(name: str, grid: float) -> float | None:
    """A diagnostic over three decades, one that is never finite, one that is missing at first."""
    values = {"damping": 10 ** (-3 * grid), "gap": math.nan, "dead units": None if grid < 0.2 else 12 * grid}
    return values.get(name, grid)


def _matrix(task: Task, value: float) -> dict[str, dict[str, float | None]]:
    """Half of what was learned is forgotten with each context that follows; what comes later is not measured."""
    return {
        after: {name: value / 2 ** (i - j) if j <= i else None for j, name in enumerate(task.contexts)}
        for i, after in enumerate(task.contexts)
    }


def _hits(task: Task, targets: dict[str, float], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    hits: dict[str, Any] = dict.fromkeys(targets)
    for name, goal in targets.items():
        previous: dict[str, Any] | None = None
        for row in (row for row in rows if row["kind"] == "evaluation"):
            value = row["metrics"][task.metric]
            if value >= goal if task.higher else value <= goal:
                before = previous or row
                hits[name] = {"step": [before["step"], row["step"]], "flops": [before["flops"], row["flops"]]}
                break
            previous = row
    return hits


def record(task: Task, learner: Learner, seed: int, status: str, error: str | None = None) -> dict[str, Any]:
    """One run: its record, trace and clock, as `write` stores them."""
    rng = np.random.default_rng(int(_digest(task.name, learner.name, seed)[:8], 16))
    key, cell = _digest(task.name, learner.name, seed)[:32], _digest(task.name, learner.name)[:16]
    end = {"completed": 1.0, "refused": -1.0, "failed": -1.0}.get(status, 0.4)
    run = _trace(task, learner, seed, end, rng)
    evaluations = [row for row in run["rows"] if row["kind"] == "evaluation"]
    reasons = {
        "completed": "The run spent its whole budget.",
        "refused": f"{learner.algorithm} needs a plain chain of blocks; task {task.name} has none; try task=digits",
        "diverged": "The loss rose past the bound that the task sets.",
        "failed": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x32 and 64x10)",
    }
    traceback = error
    if status == "failed" and traceback is None:
        traceback = (
            'Traceback (most recent call last):\n  File "rule.py", line 41, in _step\n    out = x @ w\nRuntimeError'
        )
    result: dict[str, Any] = {"status": status, "metric": task.metric, "higher_is_better": task.higher}
    measured: dict[str, Any] = {"host": "example", "pid": 1, "started": "2024-01-01T00:00:00Z"}
    measured["finished"] = "2024-01-01T00:01:00Z"
    if evaluations:
        last, ended = evaluations[-1], status in ("completed", "reached_target")
        gap = task.tuned - task.chance
        targets = {f"{share}%": task.chance + share / 100 * gap for share in (50, 90, 99)}
        values = [row["metrics"][task.metric] for row in evaluations]
        best = int(np.argmax(values) if task.higher else np.argmin(values))
        test = values[-1] * (1 + 0.004 * rng.standard_normal())
        for split, row, value in (("test", last, test), ("test_best", evaluations[best], values[best] * 0.999)):
            metrics = {task.metric: value, "loss": row["metrics"]["loss"]}
            run["rows"].append({**row, "split": split, "metrics": metrics})
        backwards = learner.saved > 0
        flops = last["flops"]
        shares = {"forward": 0.33, "backward": 0.6 if backwards else 0.0, "update": 0.05, "other": 0.02}
        shares |= {"population": 0.6} if learner.algorithm.startswith("evolution") else {}
        shares |= {"hvp": 0.5, "backward": 0.1} if learner.algorithm == "newton_cg" else {}
        whole = sum(shares.values())
        counts = {"steps": last["step"], "updates": last["step"], "samples": last["samples"], "forwards": last["step"]}
        counts |= {"backwards": last["step"] * backwards, "jvps": 0, "environment_steps": 0, "flops": flops}
        counts |= {"hvps": last["step"] * 5 if learner.algorithm == "newton_cg" else 0, "evaluations": 0}
        counts["forward_equivalents"] = last["forward_equivalents"]
        own = learner.algorithm == "som"
        result |= {
            "test": test if ended else None,
            "test_best": values[best] * 0.999 if ended else None,
            "validation": values[-1],
            "validation_best": values[best],
            "test_metrics": {task.metric: test, "loss": last["metrics"]["loss"]} if ended else {},
            "chance": task.chance,
            "oracle": task.oracle,
            "baselines": task.baselines,
            "targets": targets,
            "hits": _hits(task, targets, run["rows"]),
            "ledger": counts,
            "flops_by_kind": {kind: flops * share / whole for kind, share in shares.items()},
            "flops_residual": 0.002,
            "uncounted_ops": {"aten.bernoulli_": 12} if learner.algorithm == "dfa" else {},
            "budget": {"currency": "flops", "amount": task.flops, "spent": flops},
            "sizes": {"train": 718, "validation": 180, "test": 899},
            "parameters": 7510,
            "own_model": own,
            "predictor": "OUTPUT",
            "last_finite_step": last["step"],
            **({"panels": task.panels, "matrix": _matrix(task, values[-1])} if task.contexts else {}),
            "identity": {
                "data": _digest(task.name, "data")[:16],
                "split": _digest(task.name, "split")[:16],
                "initial_weights": _digest(task.name, learner.algorithm if own else "", seed)[:16],
                "batch_order": _digest(task.name, "order", seed)[:16],
            },
        }
        measured |= {
            "cpu_seconds": run["clock"][-1]["cpu_seconds"],
            "wall_seconds": run["clock"][-1]["wall_seconds"],
            "probe_seconds": run["clock"][-1]["probe_seconds"],
            "evaluation_seconds": 0.2,
            "live_bytes": 1_200_000 + learner.saved,
            "saved_bytes": learner.saved,
            "state_bytes": 60_080 if learner.optimizer == "adam" else 0,
        }
    axes = {"algorithm": learner.algorithm, "optimizer": learner.optimizer, "dropout": "none"}
    overrides = f"task={task.name} algorithm={learner.algorithm} optimizer={learner.optimizer} seeds=[{seed}]"
    provenance = {"altprop": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "lightning": "2.6.6"}
    provenance |= {"hydra": "1.3.8", "numpy": "2.4.6", "cpu": "Example CPU", "capability": "AVX512", "threads": 1}
    provenance |= {"device": "cpu", "precision": "float32", "git_sha": "0" * 40, "git_dirty": None, "kernel": 1}
    data = {
        "schema": 1,
        "key": key,
        "cell": cell,
        "label": learner.name,
        "workload": task.name,
        "axes": {**axes, "task": task.name, "model": task.model},
        "seed": seed,
        "status": status,
        "reason": reasons.get(status, f"The run ended as {status}."),
        "traceback": traceback if status == "failed" else None,
        "rerun": f"altprop {overrides}",
        "reference": learner.reference,
        "control": learner.control,
        "config": {"task": {"name": task.name, "batch_size": 64}, "algorithm": {"name": learner.algorithm}},
        "result": result,
        "measured": measured,
        "provenance": {**provenance, "fingerprint": "f" * 16},
    }
    return {"record": data, "trace": run["rows"], "clock": run["clock"]}


LR = {"low": 1e-5, "high": 1.0, "scale": "log", "type": "float"}
SEARCHED = (
    Learner(
        "backprop",
        "adam",
        0.97,
        9,
        align=0.96,
        reference=True,
        search={"optimizer.lr": LR},
        defaults={"optimizer.lr": 1e-3},
        best={"optimizer.lr": 3e-3},
    ),
    Learner(
        "backprop",
        "sgd",
        0.9,
        5,
        align=0.99,
        search={"optimizer.lr": {**LR, "low": 1e-3, "high": 10.0}, "optimizer.momentum": {"choices": [0.0, 0.9]}},
        defaults={"optimizer.lr": 0.1, "optimizer.momentum": 0.0},
        best={"optimizer.lr": 0.2, "optimizer.momentum": 0.9},
    ),
    Learner(
        "dfa",
        "adam",
        0.9,
        5.5,
        1.0e6,
        60_000,
        align=0.35,
        search={"optimizer.lr": LR, "algorithm.scale": {"low": 0.1, "high": 10.0, "scale": "log", "type": "float"}},
        defaults={"optimizer.lr": 1e-3, "algorithm.scale": 1.0},
        best={"optimizer.lr": 1e-3, "algorithm.scale": 1.0},
        statuses={"adding": "refused"},
    ),
)


def drawn(learner: Learner, task: Task, index: int) -> dict[str, Any]:
    """The options of a trial."""
    values: dict[str, Any] = {}
    for path, space in learner.search.items():
        u = int(_digest(learner.name, task.name, index, path)[:8], 16) / 2**32
        if "choices" in space:
            values[path] = space["choices"][int(u * len(space["choices"]))]
        elif space.get("scale") == "log":
            values[path] = float(f"{space['low'] * (space['high'] / space['low']) ** u:.3g}")
        else:
            values[path] = float(f"{space['low'] + (space['high'] - space['low']) * u:.3g}")
    return values


def fitness(learner: Learner, values: dict[str, Any]) -> tuple[float, bool]:
    """Factor on a learner's share at some options, and whether it diverges there: on rates 30 times too high."""
    factor, diverged = 1.0, False
    for path, value in values.items():
        best = learner.best.get(path, value)
        if "choices" in learner.search[path]:
            factor *= 1.0 if value == best else 0.93
        else:
            off = math.log10(value / best)
            factor *= math.exp(-0.25 * off**2)
            diverged |= path.endswith("lr") and off > 1.5
    return factor, diverged


def configure(run: dict[str, Any], values: dict[str, Any]) -> None:
    """Put options into the configuration of a run, where they belong and where an interpolation copies them."""
    config = run["record"]["config"]
    for path, value in values.items():
        group, option = path.split(".")
        config.setdefault(group, {})[option] = value
        if group == "optimizer":
            config["algorithm"].setdefault("optimizer", {})[option] = value


def trial(task: Task, learner: Learner, index: int, seed: int = 10_000, **more: Any) -> dict[str, Any]:
    """One trial of tuning on one seed, as `store` takes it; `more` goes into its `trial` block."""
    values = drawn(learner, task, index)
    factor, diverged = fitness(learner, values)
    run = record(
        task,
        replace(learner, share=learner.share * 1.03 * factor),
        seed + index,
        "diverged" if diverged else "completed",
    )
    run["record"] |= {"role": "trial", "seed": seed, "cell": _digest(task.name, learner.name, values)[:16]}
    run["record"]["result"] |= {"test": None, "test_best": None, "test_metrics": {}}
    run["trace"] = [row for row in run["trace"] if row.get("split") not in ("test", "test_best")]
    defaults = {path: learner.defaults[path] for path in learner.search}
    run["record"]["trial"] = {"index": index, "values": values, "space": learner.search, "defaults": defaults, **more}
    configure(run, values)
    return run


def tune(
    folder: Path,
    learners: Iterable[Learner] = SEARCHED,
    tasks: Iterable[Task] = TASKS,
    trials: int = 16,
    seeds: int = 3,
    change: Any = None,
) -> Path:
    """Write every learner at its defaults, its trials and its tuned runs; learners without a space are only run."""
    learners, tasks = list(learners), list(tasks)

    def settled(data: dict[str, Any], trace: Any, clock: Any) -> None:
        learner = next(one for one in learners if one.name == data["label"])
        configure({"record": data}, learner.defaults)
        if change is not None:
            change(data, trace, clock)

    write(folder, learners, tasks, seeds, change=settled)
    for task in tasks:
        for learner in learners:
            if not learner.search or status_of(learner, task, 0) == "refused":
                continue
            tried = [trial(task, learner, index) for index in range(trials)]
            for run in tried:
                if change is not None:
                    change(run["record"], run["trace"], run["clock"])
                store(folder, run)
            for run in tuned(task, learner, [run["record"] for run in tried], seeds):
                if change is not None:
                    change(run["record"], run["trace"], run["clock"])
                store(folder, run)
    return folder


def tuned(task: Task, learner: Learner, tried: Sequence[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """The runs on fresh seeds of the best of some trials."""
    sign = 1 if task.higher else -1
    ended = [one for one in tried if one["status"] == "completed"]
    best = max(ended, key=lambda one: sign * one["result"]["validation"])
    block = {
        "trials": len(tried),
        "index": best["trial"]["index"],
        "values": best["trial"]["values"],
        "defaults": best["trial"]["defaults"],
        "space": learner.search,
        "validation": best["result"]["validation"],
        "flops": sum(one["result"]["ledger"]["flops"] for one in tried),
        "learner": learner.name,
    }
    made = []
    for seed in range(seeds):
        factor, _ = fitness(learner, block["values"])
        same = replace(learner, share=learner.share * 1.03 * factor, label=f"{learner.name}·tuned")
        run = record(task, same, seed, status_of(learner, task, seed))
        run["record"] |= {"role": "tuned", "tuned": block}
        run["record"]["cell"] = _digest(task.name, same.name, block["values"])[:16]
        configure(run, block["values"])
        made.append(run)
    return made


def status_of(learner: Learner, task: Task, seed: int) -> str:
    planned = learner.statuses.get(task.name, learner.statuses.get("*", "completed"))
    return str(planned.get(seed, "completed") if isinstance(planned, dict) else planned)


def write(
    folder: Path,
    learners: Iterable[Learner] = LEARNERS,
    tasks: Iterable[Task] = TASKS,
    seeds: int = 3,
    error: str | None = None,
    change: Any = None,
) -> Path:
    """Write every learner on every task; `change(record, trace, clock)` may alter each run before it is stored."""
    learners = list(learners)
    for task in tasks:
        for learner in learners:
            for seed in range(seeds):
                run = record(task, learner, seed, status_of(learner, task, seed), error)
                if change is not None:
                    change(run["record"], run["trace"], run["clock"])
                store(folder, run)
    return folder


def store(folder: Path, run: dict[str, Any]) -> None:
    """Put one run into a folder of records, without the syncs of the real store."""
    place = folder / run["record"]["key"]
    place.mkdir(parents=True, exist_ok=True)
    lines = encode.dump_lines(run["trace"])
    run["record"]["result"]["trace_sha256"] = hashlib.sha256(lines).hexdigest()
    (place / "trace.jsonl").write_bytes(lines)
    (place / "clock.jsonl").write_bytes(encode.dump_lines(run["clock"]))
    (place / "config.yaml").write_text("task: x\n")
    (place / "record.json").write_bytes(encode.dump_record(run["record"]))

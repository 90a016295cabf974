"""Section 10: what each number of the report means."""

from __future__ import annotations

from altprop.report.blocks import Block, Cells, Facts, Files, Fold, Grid, Points, Text, right
from altprop.report.format import count, number, plural, short
from altprop.report.model import Report

DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "workload, learner, run",
        "A workload is data, model, loss, metric and target. A learner is a credit rule, an update rule and a noise. "
        "A run is one learner on one workload from one seed; the same seed gives the same initial weights and batches.",
    ),
    (
        "failed",
        "A run that was not refused and neither spent its budget nor reached its target, or has no finite result. It "
        "ranks below every other run, is counted, and is never dropped, padded or averaged in. With one failed run no "
        "mean and no t-interval is printed; a median or IQM that falls on a failure reads “failed”.",
    ),
    (
        "refused",
        "The learner lacks what the task needs, or the task what the learner needs. A refused run is not in n.",
    ),
    ("median, IQM", "The IQM is the mean of the middle half: a quarter of the runs, rounded down, is cut at each end."),
    (
        "95 % intervals",
        "Of the median: between two order statistics, exact. Of the mean: Student's t. "
        "Of the IQM: the trimmed-mean t-interval of Tukey and McLaughlin below 20 runs; from "
        "20 runs on and when tasks are pooled the BCa bootstrap, stratified by task, from a generator of our own seed. "
        "Of a rate: Wilson's score interval. They end where the metric does, such as an accuracy at 1. "
        "With 3 runs an interval rests on 3 numbers: read it as a warning.",
    ),
    (
        "at best validation",
        "The test metric at the evaluation with the best validation metric; every other test value is at the end.",
    ),
    (
        "normalized score",
        "0 % is chance, 100 % the task's tuned reference; the targets at 50, 90 and 99 % fix both beforehand.",
    ),
    (
        "p, Holm",
        "Two-sided exact sign-flip test of the mean difference to the reference, paired by seed; with a failure the "
        "exact sign test, a failure being a loss and two failures a tie. The family is each learner against the one "
        "reference, per task; controls and a learner with the very results of another are not of it. On n seeds p "
        "cannot fall below 2^(1−n) times the size of the family: where that is .05 or more the report "
        "says that n seeds cannot show a difference, and never “not shown to differ”. 12 seeds or "
        "more make a claim, 3 are to look around.",
    ),
    (
        "equivalent",
        "Said only where the task declares a margin (equivalence_margin) beforehand and the mean paired difference is "
        "shown to lie within it: two one-sided exact sign-flip tests, the larger p, Holm over the same family. Without "
        "a margin, or where the test fails, the words are “not shown to differ”.",
    ),
    (
        "time to target",
        "Cost at the first evaluation that meets the target, known as an interval whose right end is used. Runs that "
        "diverged, became non-finite, failed or ran out of memory never hit and stay in the count; only runs that were "
        "timed out or interrupted, or that stopped at an easier target, are censored. The restricted mean is the mean "
        "of min(T, τ), τ being the smallest horizon of the compared learners in that currency. Places go by hit rate "
        "first and restricted mean second, so a learner that is fast on some seeds and fails on others is never ahead "
        "of one that arrives on all.",
    ),
    (
        "performance profile",
        "ρ(τ): share of pairs (task, target) that a learner solves within τ times the cost of the best one there; its "
        "area runs from τ = 1 to 4 over 3. It depends on who is in the pool.",
    ),
    (
        "backward signal, forward signal",
        "With z the pre-activation of a layer: the root mean square over the probe batch of ‖dL/dz‖, L being an "
        "example's own loss; and how far z spreads over the examples. The slope is of its log10 along its way, in "
        "decades a layer. From a layer to the one below, the backward signal is multiplied by what the weights between "
        "do to it and by the share that the activation lets pass, as measured: the product is exact. The gradient of a "
        "weight is a signal times an input, whose size hides what becomes of the signal.",
    ),
    (
        "alignment, null band",
        "Two cosines: of what a learner hands to its optimizer (its update, where it has none) with the gradient of "
        "the batch that it saw, under the same noise; and of the whole update with −∇L on the probe batch, whose rows "
        "are drawn evenly over the targets. The band is of the second and runs from the 2.5 % to the 97.5 % quantile "
        "of the same cosine for updates from the same layer inputs and scrambled error signals: chance, as measured.",
    ),
    (
        "update ratio, descent efficiency",
        "‖Δθ‖/‖θ‖; and (L(θ) − L(θ+Δθ)) / (−∇L·Δθ), which is blank where the denominator is not positive or the "
        "alignment lies inside the null band.",
    ),
    (
        "FLOPs, forward-equivalents",
        "Multiplications and additions of the learner, evaluation and probes left out. One forward-equivalent is the "
        "cost of one forward pass of the model on one example. The residual is the misfit of the fit on audited steps.",
    ),
    (
        "memory at the peak, kept for the way back",
        "The largest total of the storages that an audited step made and had alive at once, with the learner's state: "
        "counted by storage, so the same figure for all learners and allocators. What autograd, or a rule that goes "
        "back by hand, holds between the way forth and the way back is part of it, but for the batch; parameters are "
        "in neither.",
    ),
    (
        "oracle check, oracle, negative control",
        "An oracle measures how far an algorithm is from something known in a limit where the two must be equal, and "
        "holds within its tolerance. A negative control measures the same outside the limit and holds beyond its "
        "tolerance: it shows that the oracle can tell. An oracle check is of one state of the code, named by its hash, "
        "which the runs carry too.",
    ),
    (
        "trial, tuned",
        "A trial is a run with options drawn from the space that the learner declares, on one seed; it sees validation "
        "only and is never a row. The best trial on validation is run again on fresh seeds as a learner of its own, "
        "tuned, beside the same learner at its defaults. What all trials spent is the cost of tuning.",
    ),
    (
        "best of k",
        "E_k = Σ x_(i) C(i−1, k−1) / C(N, k) over the N trials sorted from worst to best: the mean over all draws of "
        "k of them. A failed trial ranks worst, so E_k is failed as long as k failures can be drawn; the curve begins "
        "behind that; read it beside the share of failed trials. The median best of k is over the same draws and is "
        "failed where half of them or more hold failures alone.",
    ),
    (
        "seconds a step, spread",
        "CPU time of a learner's step in the timing pass: one process, one thread, the learners of a workload in turns "
        "of a block of steps, from the initial state after ten steps and two turns; audits, probes and evaluations are "
        "left out. Spread is (q75 − q25) / median over the turns: above 10 % nothing is claimed. A ratio is of equal "
        "turns; its interval lies between two of them and covers the median whatever the distribution.",
    ),
    (
        "controls",
        "Learners that must not learn: no update, a random direction, frozen features under a trained head. A learner "
        "that does not beat them has shown nothing; a control that chance beats points at the task. “At chance” means "
        "that the 95 % interval of the mean reaches down to chance.",
    ),
)


def definitions_section(report: Report) -> list[Block]:
    """Return what each number means, and where the raw data are."""
    blocks: list[Block] = [Facts(DEFINITIONS, "words"), Text("Raw data", "h4"), _files(report)]
    if report.left_out:
        blocks += [Text("What the archive of the records leaves out of the traces:"), Points(report.left_out)]
    return [*blocks, _runs(report)] if report.singles else blocks


def _files(report: Report) -> Files:
    if not report.published:
        found = [
            ("data.csv", "holds one row a run."),
            ("trace.csv.gz", "holds one row a traced number."),
            ("oracle_checks.csv", "holds one row an oracle."),
            ("report.md", "is this report in Markdown; each figure lies in figures/."),
        ]
        return Files(found)
    trials = f" and a row for each of the {plural(report.trials, 'trial')}" if report.trials else ""
    single = f"a page of each of the {plural(len(report.runs), 'run')}{trials}, which are too many for this page"
    records = (
        "holds all records: altprop.load and altprop.load_trace read it as tables, and altprop-report records.tar.xz "
        "builds a report with every figure and tables of all numbers"
    )
    records += "." if report.singles else f", and with {single}."
    pages = ("report.html", "is this report with more figures than its Markdown."), ("report.md", "is the Markdown.")
    return Files([("records.tar.xz", records), *pages])


def _runs(report: Report) -> Fold:
    head = ["task", "learner", *right("seed"), "ended", *right("test", "test at best\nvalidation", "validation")]
    rows: list[Cells] = [
        [
            short(run.record.workload, 40),
            short(run.learner, 40),
            *right(str(run.seed)),
            run.status.replace("_", " "),
            *right(*(number(run.value(name), 4) for name in ("test", "test_best", "validation"))),
            *right(count(run.spent("steps")), count(run.spent("flops"))),
            run.record.key[:12],
        ]
        for run in report.runs
    ]
    return Fold("All runs", [Grid("All runs", [*head, *right("steps", "FLOPs"), "key"], rows)])

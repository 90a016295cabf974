"""The report as files: what it says, that it repeats itself byte for byte, and that nothing in a record acts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from altprop.errors import AltpropError
from altprop.report.build import build

HOSTILE = "</script><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "br", "img", "input", "use", "path", "hr", "wbr"}


class Outline(HTMLParser):
    """Collects the tags, attributes and text of a page, and checks that elements nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "wbr":
            self.text.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text.append(" ")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


FILES = ("data:,", "data.csv", "trace.csv.gz", "oracle_checks.csv", "report.md")


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_files_and_sections(tour_report: Path) -> None:
    page = page_of(tour_report)
    assert [int(n) for n in re.findall(r'<h2><span class="n">(\d+)</span>', page)] == list(range(11))
    markdown = (tour_report / "report.md").read_text(encoding="utf-8")
    assert [int(n) for n in re.findall(r"^## (\d+) ", markdown, re.M)] == list(range(11))
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (tour_report / name).is_file()
    assert len(list((tour_report / "figures").glob("*.svg"))) > 30


def test_three_seeds_are_too_few_and_the_interval_is_given(tour_report: Path) -> None:
    words = Outline(page_of(tour_report)).words
    verdict = words[words.index("On digits") : words.index("learner runs completed", words.index("On digits"))]
    assert "3 seeds cannot show a difference here" in verdict
    assert "too few to claim anything" in verdict
    assert re.search(r"median 0\.\d{3} \(all runs 0\.\d{3} to [01]\.\d{3}\)", verdict)
    assert "not shown to differ" not in words.split("Definitions and raw data")[0]


def test_a_failed_run_forbids_the_mean_and_is_counted(tour_report: Path) -> None:
    data = json.loads(re.search(r'id="numbers">(.*?)</script>', page_of(tour_report), re.S)[1])
    mnist = next(one for one in data["workloads"] if one["workload"] == "mnist1d")
    newton = next(row for row in mnist["learners"] if row["learner"] == "newton_cg")
    assert (newton["n"], newton["failed"], newton["mean"]) == (3, 1, None)
    assert isinstance(newton["median"], float)
    others = [row for row in mnist["learners"] if row["learner"] != "newton_cg"]
    assert all(len(row["mean"]) == 3 for row in others)
    assert any("newton_cg 1 of 3" in caveat for caveat in mnist["caveats"])


@pytest.mark.parametrize(("share", "flag"), [(-0.05, ["control beaten by chance"]), (0.0, ["at chance"]), (0.1, [])])
def test_a_control_that_chance_beats_is_flagged(
    share: float, flag: list[str], synthetic: ModuleType, tmp_path: Path
) -> None:
    """Chance must lie outside the control's interval: a control that does nothing scatters around it."""
    learners = [synthetic.LEARNERS[0], synthetic.Learner("null", share=share, speed=9, control=True)]
    runs = synthetic.write(tmp_path / "runs", learners, synthetic.TASKS[:1], 12)
    page = page_of(build([runs], tmp_path / "out").parent)
    data = json.loads(re.search(r'id="numbers">(.*?)</script>', page, re.S)[1])
    assert data["workloads"][0]["learners"][1]["flags"] == flag
    assert data["workloads"][0]["learners"][0]["flags"] == []


def test_a_learner_not_above_chance_is_flagged(synthetic: ModuleType, tmp_path: Path) -> None:
    learners = [synthetic.LEARNERS[0], synthetic.Learner("lost", share=-0.2)]
    runs = synthetic.write(tmp_path / "runs", learners, synthetic.TASKS[:1], 2)
    assert "lost: not above chance." in Outline(page_of(build([runs], tmp_path / "out").parent)).words


def test_a_learner_that_does_not_beat_a_control_is_flagged(synthetic: ModuleType, tmp_path: Path) -> None:
    weak = synthetic.Learner("weak", share=0.3)
    control = synthetic.Learner("frozen_features", share=0.8, control=True)
    runs = synthetic.write(tmp_path / "runs", [synthetic.LEARNERS[0], weak, control], synthetic.TASKS[:1])
    words = Outline(page_of(build([runs], tmp_path / "out").parent)).words
    assert "weak: does not beat frozen_features." in words


def test_refusals_stand_with_their_sentence(tour_report: Path) -> None:
    page = Outline(page_of(tour_report))
    assert "dfa needs a plain chain of blocks; task adding has none; try task=digits" in page.words
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [
        attributes["href"] for tag, attributes in page.tags if tag == "a" and (attributes["href"] or "").startswith("#")
    ]
    assert links
    assert all(link[1:] in anchors for link in links if link)


def test_oracle_baselines_and_chance_are_printed(tour_report: Path) -> None:
    words = Outline(page_of(tour_report)).words
    assert "to the oracle" in words
    assert re.search(r"1-NN 0\.951", words)
    assert re.search(r"chance 0\.100", words)


def test_words_instead_of_zero(tour_report: Path) -> None:
    words = Outline(page_of(tour_report)).words
    health = words[words.index("Measured on one frozen") :]
    assert re.search(r"som not applicable", health)
    assert re.search(r"null control no layered net no layered net no update", health)


def test_diagnostics_of_learners_are_told_where_there_are_any(
    tour_report: Path, synthetic: ModuleType, tmp_path: Path
) -> None:
    heading = "What learners measure of themselves"
    assert (tour_report / "report.html").read_text().count(heading) == 3
    told = "- newton\\_cg measures of itself, at the end: damping 0.0010, gap –"
    assert (tour_report / "report.md").read_text().count(told) == 3
    runs = synthetic.write(tmp_path / "runs", synthetic.LEARNERS[:2], synthetic.TASKS[:1], 2)
    out = build([runs], tmp_path / "out").parent
    assert heading not in (out / "report.html").read_text()
    assert "of itself" not in (out / "report.md").read_text()


def test_failures_have_their_rerun_command(tour_report: Path) -> None:
    words = Outline(page_of(tour_report)).words
    assert "newton_cg on mnist1d, seed 1: diverged" in words
    assert "altprop task=mnist1d algorithm=newton_cg optimizer=none seeds=[1]" in words


def test_identity_is_checked_and_said(tour_report: Path) -> None:
    words = Outline(page_of(tour_report)).words
    assert "adding data equal One hash in all 18 runs" in words
    assert "digits initial weights equal Equal within 3 groups of one (model, batch size, seed), 24 runs" in words


def test_a_broken_identity_reaches_the_verdict(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(record: dict, trace: list, clock: list) -> None:
        if record["label"] == "backprop+sgd" and record["seed"] == 2:
            record["result"]["identity"]["initial_weights"] = "0123456789abcdef"

    runs = synthetic.write(tmp_path / "runs", synthetic.LEARNERS[:3], synthetic.TASKS[:1], change=change)
    page = page_of(build([runs], tmp_path / "out").parent)
    assert "The initial weights were not the same for all" in page
    assert "seed 2: " in page
    assert "0123456789ab (backprop+sgd)" in page


def test_same_records_same_bytes(tour: Path, tour_report: Path, tmp_path: Path) -> None:
    """The folder is elsewhere, its entries come in another order, and the process is another one."""
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for folder in sorted(tour.iterdir(), reverse=True):
        shutil.copytree(folder, moved / folder.name)
    out = tmp_path / "out"
    source = f"from altprop.report.build import build; build([{str(moved)!r}], {str(out)!r}, 'The tour')"
    subprocess.run(
        [sys.executable, "-c", source], check=True, env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    )
    ours = sorted(path.relative_to(tour_report) for path in tour_report.rglob("*") if path.is_file())
    assert ours == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    for path in ours:
        assert (out / path).read_bytes() == (tour_report / path).read_bytes(), path


def test_nothing_from_outside_and_no_script(tour_report: Path) -> None:
    page = Outline(page_of(tour_report))
    policy = next(
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    script = re.search(r"<script>(.*?)</script>", page_of(tour_report), re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert [a.get("type") for tag, a in page.tags if tag == "script"] == ["application/json", "application/json", None]
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value in FILES


def test_ids_are_unique(tour_report: Path) -> None:
    ids = [attributes["id"] for _, attributes in Outline(page_of(tour_report)).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_hostile_records_are_inert(hostile_runs: Path, tmp_path: Path) -> None:
    out = build([hostile_runs], tmp_path / "out", "T " + HOSTILE).parent
    page = Outline(page_of(out))
    assert not [tag for tag, _ in page.tags if tag in ("img", "i", "u")]
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.words
    assert "alert(2)" in page.words
    raw = page_of(out)
    assert "\u202e" not in raw
    assert "\\u202e" in raw
    inline = re.search(r'id="numbers">(.*?)</script>', raw, re.S)
    assert inline is not None
    assert "<" not in inline[1]
    assert "\\u003c/script\\u003e" in inline[1]
    assert HOSTILE in json.dumps(json.loads(inline[1]))
    for path in (out / "figures").iterdir():
        assert re.fullmatch(r"[A-Za-z0-9_-]+\.svg", path.name)
        svg = Outline(path.read_text(encoding="utf-8"))
        assert {tag for tag, _ in svg.tags} <= {"svg", "style", "g", "path", "text"}


def test_hostile_records_are_inert_in_markdown(hostile_runs: Path, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    out = build([hostile_runs], tmp_path / "out", "T " + HOSTILE, ["md"]).parent
    text = (out / "report.md").read_text(encoding="utf-8")
    page = Outline(MarkdownIt("gfm-like", {"linkify": False}).render(text))
    assert not [attributes for tag, attributes in page.tags if tag in ("script", "iframe", "b", "i", "u")]
    assert all((a["src"] or "").startswith("figures/") for tag, a in page.tags if tag == "img")
    assert all(a["href"] in FILES for tag, a in page.tags if tag == "a")
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not [1 for tag, _ in page.tags if tag == "h1"][1:]
    # Every row of a table has as many cells as its head: no name broke out of its cell.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table[:200]


def cases(s: ModuleType) -> dict[str, dict]:
    several = [s.Learner(f"rule{i}", share=i / 14, align=0.1) for i in range(14)]
    return {
        "one run": {"learners": s.LEARNERS[:1], "tasks": s.TASKS[:1], "seeds": 1},
        "one cell": {"learners": s.LEARNERS[:1], "tasks": s.TASKS[:1]},
        "no reference": {"learners": s.LEARNERS[1:3], "tasks": s.TASKS[:1]},
        "all refused": {"learners": [s.Learner("a", statuses={"*": "refused"})], "tasks": s.TASKS[:2]},
        "all failed": {"learners": [s.Learner("a", reference=True, statuses={"*": "failed"})], "tasks": s.TASKS[:2]},
        "all diverged": {"learners": [s.Learner("a", statuses={"*": "diverged"})], "tasks": s.TASKS},
        "interrupted": {"learners": [s.Learner("a", statuses={"*": "interrupted"})], "tasks": s.TASKS[:1]},
        "many": {"learners": several, "tasks": s.TASKS[:2], "seeds": 2},
        "enough seeds": {"learners": s.LEARNERS[:3], "tasks": s.TASKS[:1], "seeds": 21},
    }


NAMES = [
    "one run",
    "one cell",
    "no reference",
    "all refused",
    "all failed",
    "all diverged",
    "interrupted",
    "many",
    "enough seeds",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_reports_render(name: str, synthetic: ModuleType, tmp_path: Path) -> None:
    runs = synthetic.write(tmp_path / "runs", **cases(synthetic)[name])
    words = Outline(page_of(build([runs], tmp_path / "out").parent)).words
    expected = {
        "one run": "No other learner ran here: nothing is compared.",
        "one cell": "There is one data set only: nothing can be said across tasks.",
        "no reference": "There is no reference learner to compare with",
        "all refused": "No learner ran digits: every cell was refused.",
        "all failed": "No run of digits came to its end: all 3 runs failed.",
        "all diverged": "No run of adding came to its end",
        "interrupted": "No run of digits came to its end",
        "many": "Drawn here are 12 of 14 learners",
        "enough seeds": "BCa",
    }[name]
    assert expected in words
    assert "nan" not in re.findall(r"\b\w+\b", words.lower())


def test_partial_results_render(synthetic: ModuleType, tmp_path: Path) -> None:
    """A result block may be empty, and numbers may be infinite or missing."""

    def change(record: dict, trace: list, clock: list) -> None:
        if record["seed"] == 0:
            record["result"] = {}
            trace.clear()
            clock.clear()
        elif record["seed"] == 1:
            record["result"]["test"] = float("nan")
            record["measured"] = {}
            for row in trace:
                if "values" in row:
                    row["values"]["gradient_norm"] = float("inf")
        else:
            for name in ("targets", "hits", "chance", "baselines", "oracle", "flops_by_kind", "identity"):
                record["result"].pop(name)

    runs = synthetic.write(tmp_path / "runs", synthetic.LEARNERS[:3], synthetic.TASKS[:1], change=change)
    words = Outline(page_of(build([runs], tmp_path / "out").parent)).words
    assert "backprop+adam 2 of 3" in words


def test_settings_make_learners(synthetic: ModuleType, tmp_path: Path) -> None:
    """Two learning rates of one label are two learners, never two more seeds of one."""

    def slow(record: dict, trace: list, clock: list) -> None:
        record["config"]["optimizer"] = {"lr": 0.001}
        record["cell"], record["key"] = "0" * 16, f"{record['seed']:032x}"

    def fast(record: dict, trace: list, clock: list) -> None:
        record["config"]["optimizer"] = {"lr": 0.1}

    for change in (slow, fast):
        synthetic.write(tmp_path / "runs", synthetic.LEARNERS[1:2], synthetic.TASKS[:1], change=change)
    words = Outline(page_of(build([tmp_path / "runs"], tmp_path / "out").parent)).words
    assert "2 learners on 1 task, 6 runs" in words
    assert "backprop+sgd [lr=0.001]" in words
    assert "backprop+sgd [lr=0.1]" in words


def test_only_the_runs_asked_for(tour: Path, tmp_path: Path) -> None:
    keys = sorted(folder.name for folder in tour.iterdir())[:5]
    out = build([tour], tmp_path, keys=keys).parent
    assert ", 5 runs: " in page_of(out)
    assert sorted(pd.read_csv(out / "data.csv")["key"]) == keys
    assert set(pd.read_csv(out / "trace.csv.gz")["key"]) <= set(keys)


def test_raw_data_reads_back(tour: Path, tour_report: Path) -> None:
    from altprop.records.frame import load

    frame, raw = load(tour), pd.read_csv(tour_report / "data.csv")
    assert list(raw["key"]) == list(frame["key"])
    assert raw["test"].to_numpy() == pytest.approx(frame["test"].to_numpy(), nan_ok=True, rel=1e-15)
    assert "folder" not in raw
    with gzip.open(tour_report / "trace.csv.gz", "rt") as file:
        assert file.readline().startswith("key,label,workload,seed,kind,split,step")


def test_stale_figures_go_and_others_stay(synthetic: ModuleType, tour: Path, tmp_path: Path) -> None:
    out = build([tour], tmp_path / "out").parent
    (out / "figures" / "mine.svg").write_text("<svg/>")
    few = synthetic.write(tmp_path / "few", synthetic.LEARNERS[:1], synthetic.TASKS[:1], 1)
    build([few], out)
    names = {path.name for path in (out / "figures").iterdir()}
    assert "mine.svg" in names
    assert "final-digits.svg" in names
    assert not [name for name in names if "mnist1d" in name]


def test_unreadable_records_are_listed(tour: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(tour, runs)
    broken = sorted(runs.iterdir())[0]
    (broken / "record.json").write_text("{ torn")
    assert "Records that could not be read" in page_of(build([runs], tmp_path / "out").parent)


@pytest.mark.parametrize(
    ("folder", "formats", "message"),
    [
        ("missing", ("html",), "there is no folder of records"),
        ("empty", ("html",), "there are no records in"),
        ("runs", ("pdf",), "unknown report format pdf"),
        ("runs", (), "unknown report format none"),
    ],
)
def test_bad_input(folder: str, formats: tuple[str, ...], message: str, tour: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "runs").symlink_to(tour)
    with pytest.raises(AltpropError, match=message) as caught:
        build([tmp_path / folder], tmp_path / "out", formats=formats)
    assert "\n" not in str(caught.value)


def test_unwritable_place(tour: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(AltpropError, match="cannot be written"):
        build([tour], tmp_path / "out")


def test_the_report_never_loads_torch(tour: Path, tmp_path: Path) -> None:
    source = (
        "import sys; from altprop.report.build import build\n"
        f"build([{str(tour)!r}], {str(tmp_path / 'out')!r})\n"
        "heavy = ('torch', 'pytorch_lightning', 'hydra', 'scipy.stats', 'altprop.harness')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"

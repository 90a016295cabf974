"""What the page is made of: sections of texts, tables and figures, which one renderer makes HTML and one Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from altprop.report.draw import Figure
from altprop.report.escape import breakable, fenced, for_markdown
from altprop.report.format import number, places, signed, span, visible
from altprop.report.model import Learner
from altprop.report.statistics import Interval


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is a class of the page's style, or "h4" for a heading."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Points:
    """A list of sentences; each has the anchor `stem-1`, `stem-2`, ... where a stem is given."""

    sentences: Sequence[str]
    stem: str = ""


@dataclass(frozen=True)
class Code:
    """Lines of code or of a command."""

    text: str


@dataclass(frozen=True)
class Files:
    """Links to files beside the page, each with what it holds."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says. small: a second line in small type.
        kind: classes of the page's style: "r" for numbers, "failed" and so on.
        learner: whose key and name it shows in place of a text; its key beside the text if `kind` is "key".
        sort: what a reader's sorting goes by, where the text does not tell.
        why: shown to who points at it.
        notes: numbers of sentences in a list with the stem "refusal".
        flags: what must not be overlooked.
    """

    text: str = ""
    small: str = ""
    kind: str = ""
    learner: Learner | None = None
    sort: float | None = None
    why: str = ""
    notes: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()


Cells = list[Cell | str]


@dataclass(frozen=True)
class Grid:
    """A table; `foot` are rows that stay below whatever the reader sorts by, `kind` is a class of the page's style."""

    label: str
    head: Sequence[Cell | str]
    rows: Sequence[Sequence[Cell | str]]
    foot: Sequence[Sequence[Cell | str]] = ()
    kind: str = ""


@dataclass(frozen=True)
class Drawings:
    """Figures beside each other, in a "grid" where they are small; Markdown shows those that have a file.

    Attributes:
        main: whether they have a file in a published report too.
        chart: place of the data that the page's script draws in their stead; None where they stay.
    """

    figures: Sequence[Figure]
    kind: str = "pair"
    main: bool = False
    chart: int | None = None


@dataclass(frozen=True)
class Facts:
    """Short facts, each a name with its value; `kind` is a class of the page's style."""

    pairs: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Beside:
    """Two halves beside each other where there is room."""

    left: Sequence[Block]
    right: Sequence[Block]


@dataclass(frozen=True)
class Fold:
    """What the page folds away under a line, `opened` or not; Markdown leaves it out unless it is `written`."""

    summary: str
    blocks: Sequence[Block]
    opened: bool = False
    written: bool = False


@dataclass(frozen=True)
class Task:
    """The part of a section that is about one workload: the page shows it when that is chosen."""

    workload: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Switch:
    """A choice of views by their keys, each with its title; Markdown has the first view alone."""

    titles: dict[str, str]


@dataclass(frozen=True)
class View:
    """What a choice of a `Switch` shows."""

    key: str
    blocks: Sequence[Block]
    written: bool


Block = Text | Points | Code | Files | Grid | Drawings | Facts | Beside | Fold | Task | Switch | View


@dataclass(frozen=True)
class Section:
    """A section of the page; `name` is its name in the list of sections, where the title is too long for it."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    name: str = ""


def note(text: str) -> list[Block]:
    """Return a note in small type, nothing for an empty text."""
    return [Text(text, "note")] if text else []


def drawings(figures: Sequence[Figure | None], kind: str = "pair", main: bool = False) -> list[Block]:
    """Return figures as a block, those that are None left out; nothing where none is left."""
    known = [figure for figure in figures if figure is not None]
    return [Drawings(known, kind, main)] if known else []


def value(x: float | None, small: str = "") -> Cell:
    """Return a cell with a value of the metric, a failure set off."""
    return Cell(number(x), small, "r failed" if number(x) == "failed" else "r", sort=_sort(x, number(x)))


def _sort(x: float | None, text: str) -> float | None:
    """Return what sorting goes by, where a script could not read it off the text."""
    return x if "×" in text or "failed" in text else None


def interval(x: Interval | None, small: str = "") -> Cell:
    """Return a cell with an estimate and its limits."""
    if x is None or number(x.estimate) == "failed":
        return value(None if x is None else x.estimate, small)
    text = number(x.estimate, places(x))
    return Cell(text, small or span(x), "r", sort=_sort(x.estimate, text))


def difference(x: Interval) -> Cell:
    """Return a cell with a signed difference and its limits."""
    text = signed(x.estimate, places(x))
    return Cell(text, span(x), "r", sort=_sort(x.estimate, text))


def right(*texts: str) -> Cells:
    """Return cells with numbers."""
    return [Cell(text, kind="r") for text in texts]


def figures_of(blocks: Iterable[Block], main: bool = False) -> Iterator[Figure]:
    """Yield the figures that have a name, wherever they are folded away; of a published report the `main` ones."""
    for block in blocks:
        match block:
            case Drawings():
                yield from (figure for figure in block.figures if figure.name and (block.main or not main))
            case Beside():
                yield from figures_of([*block.left, *block.right], main)
            case Fold() | Task() | View():
                yield from figures_of(block.blocks, main)


def html(blocks: Iterable[Block], waiting: bool = False) -> Markup:
    """Return blocks as HTML.

    Args:
        blocks: to write.
        waiting: whether they wait as text until the reader comes to them: what is folded away in them need not.

    >>> html([Text("a < b", "note")])
    Markup('<p class="note">a &lt; b</p>')
    """
    return _lines(_html(block, waiting) for block in blocks)


def _html(block: Block, waiting: bool) -> Markup:
    match block:
        case Text(text, "h4"):
            return _tag("h4", text)
        case Text(text, kind):
            return _tag("p", text, _class(kind))
        case Points(sentences, stem):
            ids = (_attribute("id", f"{stem}-{i}" if stem else "") for i, _ in enumerate(sentences, start=1))
            items = _lines(_tag("li", text, one) for text, one in zip(sentences, ids, strict=True))
            return Markup('<{0} class="note">\n{1}\n</{0}>').format(Markup("ol" if stem else "ul"), items)
        case Code(text):
            return _tag("pre", text)
        case Files(pairs):
            items = _lines(Markup('<li><a href="{0}">{0}</a> {1}</li>').format(*map(visible, one)) for one in pairs)
            return Markup("<ul>\n{}\n</ul>").format(items)
        case Grid():
            return _table(block)
        case Drawings(figures, chart=chart) if chart is not None:
            inside = _lines(Markup("{}{}").format(Markup(one.svg), _caption(one)) for one in figures)
            return Markup('<figure data-chart="{}">\n{}\n</figure>').format(chart, inside)
        case Drawings(figures, kind):
            return _box(kind, _lines(map(drawing, figures)))
        case Facts(pairs, kind):
            inside = _lines(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*map(visible, one)) for one in pairs)
            return Markup('<dl class="{}">\n{}\n</dl>').format(kind, inside)
        case Beside():
            halves = (_box("half", html(half, waiting)) for half in (block.left, block.right) if half)
            return _box("beside", _lines(halves))
        case Fold():
            inside = _box("in", html(block.blocks, True))
            inside = inside if waiting or block.opened else _later(inside)
            opened = Markup(" open" if block.opened else "")
            return Markup("<details{}>{}\n{}\n</details>").format(opened, _tag("summary", block.summary), inside)
        case Task(workload):
            inside = _later(html(block.blocks, True))
            return Markup('<article class="task"{}>\n{}\n{}\n</article>').format(
                _attribute("data-task", workload), _tag("h3", workload), inside
            )
        case Switch(titles):
            return _switch(titles)
        case View(key, inside_view):
            return _box(f"view view-{key}", html(inside_view, waiting))


def _later(inside: Markup) -> Markup:
    """Return what waits as text until the script makes it part of the page, and is there at once without a script."""
    return Markup('<noscript class="later">\n{}\n</noscript>').format(inside)


def _box(kind: str, inside: Markup) -> Markup:
    return Markup('<div class="{}">\n{}\n</div>').format(kind, inside)


def _tag(tag: str, text: str, attributes: str = "") -> Markup:
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), attributes, visible(text))


def _switch(titles: dict[str, str]) -> Markup:
    inputs = _lines(
        Markup('<input class="pick" type="radio" name="x" id="x-{}"{}>').format(key, Markup("" if i else " checked"))
        for i, key in enumerate(titles)
    )
    labels = _lines(Markup('<label for="x-{}">{}</label>').format(*one) for one in titles.items())
    bar = Markup('<div class="bar" role="group" aria-label="Horizontal axis">Over {}</div>').format(labels)
    return Markup("{}\n{}").format(inputs, bar)


def _table(grid: Grid) -> Markup:
    rows, foot = (_lines(map(_row, part)) for part in (grid.rows, grid.foot))
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}">\n<table{}>\n<thead><tr>{}</tr></thead>\n'
        "<tbody>\n{}\n</tbody>\n{}</table>\n</div>"
    ).format(
        visible(grid.label),
        _class(grid.kind),
        Markup("").join(_cell(cell, "th") for cell in grid.head),
        rows,
        Markup("<tfoot>\n{}\n</tfoot>\n").format(foot) if foot else "",
    )


def _lines(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)


def drawing(figure: Figure) -> Markup:
    """Return a figure as HTML: its texts were escaped when it was drawn."""
    return Markup("<figure>{}{}</figure>").format(Markup(figure.svg), _caption(figure))


def _caption(figure: Figure) -> Markup:
    return _tag("figcaption", figure.caption) if figure.caption else Markup("")


def _row(cells: Sequence[Cell | str]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup("").join(_cell(cell, "td") for cell in cells))


def _cell(given: Cell | str, tag: str) -> Markup:
    cell = given if isinstance(given, Cell) else Cell(given)
    kinds = cell.kind.split()
    tag = "th" if cell.learner else tag
    if cell.learner:
        inside = name(cell.learner) if "key" not in kinds else Markup("{}<br>{}").format(key(cell.learner), cell.text)
    elif "wrap" in kinds:
        inside = breakable(cell.text)
    else:
        inside = escape(visible(cell.text)).replace("\n", Markup("<br>"))
    for one in cell.notes:
        inside += Markup(' <sup><a href="#refusal-{0}">{0}</a></sup>').format(one)
    if cell.small:
        inside += Markup('<span class="i">{}</span>').format(visible(cell.small))
    for flag in cell.flags:
        inside += Markup('<span class="flag">{}</span>').format(visible(flag))
    attributes = _attribute("scope", "row" if cell.learner and "key" not in kinds else "") + _class(cell.kind)
    attributes += _attribute("title", cell.why) + _attribute("data-sort", "" if cell.sort is None else repr(cell.sort))
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), attributes, inside)


def name(learner: Learner) -> Markup:
    """Return a learner's key and name as HTML."""
    tag = "reference" if learner.reference else "control" if learner.control else ""
    return Markup(
        '<span class="learner"><svg viewBox="0 0 24 12" aria-hidden="true"><use href="#k{}"/></svg>{}{}</span>'
    ).format(
        learner.index,
        breakable(learner.name),
        Markup(' <span class="tag">{}</span>').format(tag) if tag else Markup(""),
    )


def key(learner: Learner) -> Markup:
    """Return a learner's key alone, its name told to who points at it."""
    return Markup(
        '<svg width="24" height="12" viewBox="0 0 24 12" role="img"{}><title>{}</title><use href="#k{}"/></svg>'
    ).format(_attribute("aria-label", learner.name), visible(learner.name), learner.index)


def _class(names: str) -> Markup:
    return _attribute("class", names)


def _attribute(key: str, text: str) -> Markup:
    return Markup(' {}="{}"').format(Markup(key), visible(text)) if text else Markup("")


def markdown(blocks: Iterable[Block], shown: Collection[str] = ()) -> str:
    r"""Return blocks as Markdown.

    Args:
        blocks: to write.
        shown: names of the figures that have a file.

    >>> print(markdown([Text("a|b"), Grid("", ["x", Cell("y", "per z", "r")], [["1", Cell("2", "3 to 4")]])]))
    a\|b
    <BLANKLINE>
    | x | y, per z |
    |---|--:|
    | 1 | 2 (3 to 4) |
    """
    return "\n\n".join(text for block in blocks if (text := _markdown(block, shown)))


def _markdown(block: Block, shown: Collection[str]) -> str:
    match block:
        case Text(text, kind):
            return ("#### " if kind == "h4" else "") + for_markdown(text)
        case Points(sentences, stem):
            marks = [f"{i}." if stem else "-" for i, _ in enumerate(sentences, start=1)]
            return "\n".join(f"{mark} {for_markdown(text)}" for mark, text in zip(marks, sentences, strict=True))
        case Code(text):
            return fenced(text)
        case Files(pairs):
            return "\n".join(f"- [{name}]({name}) {for_markdown(what)}" for name, what in pairs)
        case Grid():
            head = [cell if isinstance(cell, Cell) else Cell(cell) for cell in block.head]
            lines = [_line(f"{for_markdown(c.text)}{', ' if c.small else ''}{for_markdown(c.small)}" for c in head)]
            lines.append("|" + "|".join("--:" if "r" in cell.kind.split() else "---" for cell in head) + "|")
            return "\n".join([*lines, *(_line(map(_written, row)) for row in [*block.rows, *block.foot])])
        case Drawings(figures):
            known = [one for one in figures if one.name in shown]
            texts = [f"![{for_markdown(one.canvas.label)}](figures/{one.name}.svg)" for one in known]
            captions = [for_markdown(one.caption) for one in known if one.caption]
            return "\n".join(texts) + "".join(f"\n\n{text}" for text in captions)
        case Facts(pairs):
            return "\n".join(f"- **{for_markdown(name)}**: {for_markdown(value)}" for name, value in pairs)
        case Beside():
            return markdown([*block.left, *block.right], shown)
        case Fold():
            return markdown([Text(block.summary, "h4"), *block.blocks], shown) if block.written else ""
        case Task(workload):
            return f"### {for_markdown(workload)}\n\n{markdown(block.blocks, shown)}"
        case View():
            return markdown(block.blocks, shown) if block.written else ""
        case Switch():
            return ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _written(given: Cell | str) -> str:
    cell = given if isinstance(given, Cell) else Cell(given)
    text = cell.text
    if cell.learner:
        learner = cell.learner
        text = learner.name + (" (reference)" if learner.reference else " (control)" if learner.control else "")
    notes = "".join(f" ({note})" for note in cell.notes)
    flags = "".join(f"; {for_markdown(flag)}" for flag in cell.flags)
    return f"{for_markdown(text)}{notes}{f' ({for_markdown(cell.small)})' if cell.small else ''}{flags}"

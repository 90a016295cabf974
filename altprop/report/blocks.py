"""What a section is made of: texts, lists and tables, which one renderer makes HTML and another Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from altprop.report.draw import Figure
from altprop.report.escape import breakable, for_markdown
from altprop.report.format import visible
from altprop.report.model import Learner


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
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says. small: a second line in small type.
        kind: classes of the page's style: "r" for numbers, "failed" and so on.
        learner: whose key and name it shows in place of a text.
        sort: what a reader's sorting goes by, where the text does not tell.
        why: shown to who points at it.
        notes: numbers of sentences in a list with the stem "refusal".
    """

    text: str = ""
    small: str = ""
    kind: str = ""
    learner: Learner | None = None
    sort: float | None = None
    why: str = ""
    notes: tuple[int, ...] = ()


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
    """Figures beside each other, in a "grid" where they are small; Markdown shows those that have a file."""

    figures: Sequence[Figure]
    kind: str = "pair"


@dataclass(frozen=True)
class Facts:
    """Short facts, each a name with its value."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Fold:
    """What the page folds away under a line, and Markdown leaves out."""

    summary: str
    blocks: Sequence[Block]


Block = Text | Points | Grid | Drawings | Facts | Fold


def figures_of(blocks: Iterable[Block]) -> Iterator[Figure]:
    """Yield the figures of blocks, those that are folded away too."""
    for block in blocks:
        if isinstance(block, Drawings):
            yield from block.figures
        elif isinstance(block, Fold):
            yield from figures_of(block.blocks)


def html(blocks: Iterable[Block]) -> Markup:
    """Return blocks as HTML.

    >>> html([Text("a < b", "note")])
    Markup('<p class="note">a &lt; b</p>')
    """
    return Markup("\n").join(_html(block) for block in blocks)


def _html(block: Block) -> Markup:
    if isinstance(block, Text):
        if block.kind == "h4":
            return Markup("<h4>{}</h4>").format(visible(block.text))
        return Markup("<p{}>{}</p>").format(_class(block.kind), visible(block.text))
    if isinstance(block, Points):
        tag = Markup("ol" if block.stem else "ul")
        items = Markup("\n").join(
            Markup("<li{}>{}</li>").format(_attribute("id", f"{block.stem}-{i}" if block.stem else ""), visible(text))
            for i, text in enumerate(block.sentences, start=1)
        )
        return Markup('<{0} class="note">\n{1}\n</{0}>').format(tag, items)
    if isinstance(block, Drawings):
        return Markup('<div class="{}">\n{}\n</div>').format(block.kind, _lines(map(drawing, block.figures)))
    if isinstance(block, Facts):
        pairs = _lines(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*map(visible, one)) for one in block.pairs)
        return Markup('<dl class="facts">\n{}\n</dl>').format(pairs)
    if isinstance(block, Fold):
        return Markup('<details><summary>{}</summary>\n<div class="in">\n{}\n</div>\n</details>').format(
            visible(block.summary), html(block.blocks)
        )
    rows = Markup("\n").join(_row(row) for row in block.rows)
    foot = Markup("\n").join(_row(row) for row in block.foot)
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}">\n<table{}>\n<thead><tr>{}</tr></thead>\n'
        "<tbody>\n{}\n</tbody>\n{}</table>\n</div>"
    ).format(
        visible(block.label),
        _class(block.kind),
        Markup("").join(_cell(cell, "th") for cell in block.head),
        rows,
        Markup("<tfoot>\n{}\n</tfoot>\n").format(foot) if foot else "",
    )


def _lines(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)


def drawing(figure: Figure) -> Markup:
    """Return a figure as HTML: its texts were escaped when it was drawn."""
    caption = Markup("<figcaption>{}</figcaption>").format(visible(figure.caption)) if figure.caption else ""
    return Markup("<figure>{}{}</figure>").format(Markup(figure.svg), caption)


def _row(cells: Sequence[Cell | str]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup("").join(_cell(cell, "td") for cell in cells))


def _cell(given: Cell | str, tag: str) -> Markup:
    cell = given if isinstance(given, Cell) else Cell(given)
    tag = "th" if cell.learner else tag
    if cell.learner:
        inside = name(cell.learner)
    elif "wrap" in cell.kind.split():
        inside = breakable(cell.text)
    else:
        inside = escape(visible(cell.text)).replace("\n", Markup("<br>"))
    for note in cell.notes:
        inside += Markup(' <sup><a href="#refusal-{0}">{0}</a></sup>').format(note)
    if cell.small:
        inside += Markup('<span class="i">{}</span>').format(visible(cell.small))
    attributes = _attribute("scope", "row" if cell.learner else "") + _class(cell.kind)
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


def _class(names: str) -> Markup:
    return _attribute("class", names)


def _attribute(key: str, value: str) -> Markup:
    return Markup(' {}="{}"').format(Markup(key), visible(value)) if value else Markup("")


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
    if isinstance(block, Drawings):
        return "\n".join(
            f"![{for_markdown(one.canvas.label)}](figures/{one.name}.svg)" for one in block.figures if one.name in shown
        )
    if isinstance(block, Facts):
        return "\n".join(f"- {for_markdown(name)}: {for_markdown(value)}" for name, value in block.pairs)
    if isinstance(block, Fold):
        return ""
    if isinstance(block, Text):
        return ("#### " if block.kind == "h4" else "") + str(for_markdown(block.text))
    if isinstance(block, Points):
        marks = [f"{i}." if block.stem else "-" for i, _ in enumerate(block.sentences, start=1)]
        return "\n".join(f"{mark} {for_markdown(text)}" for mark, text in zip(marks, block.sentences, strict=True))
    head = [cell if isinstance(cell, Cell) else Cell(cell) for cell in block.head]
    lines = [_line(f"{for_markdown(c.text)}{', ' if c.small else ''}{for_markdown(c.small)}" for c in head)]
    lines.append("|" + "|".join("--:" if "r" in cell.kind.split() else "---" for cell in head) + "|")
    return "\n".join([*lines, *(_line(map(_written, row)) for row in [*block.rows, *block.foot])])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _written(given: Cell | str) -> str:
    cell = given if isinstance(given, Cell) else Cell(given)
    text = cell.text
    if cell.learner:
        learner = cell.learner
        text = learner.name + (" (reference)" if learner.reference else " (control)" if learner.control else "")
    notes = "".join(f" ({note})" for note in cell.notes)
    return f"{for_markdown(text)}{notes}{f' ({for_markdown(cell.small)})' if cell.small else ''}"

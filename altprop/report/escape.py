"""What keeps names and error texts from becoming markup, in HTML, in inline JSON and in Markdown."""

from __future__ import annotations

import json
import math
import re
from html import escape
from typing import Any

from markupsafe import Markup
from markupsafe import escape as markup_escape

from altprop.report.format import visible

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


def inline_json(value: Any) -> Markup:
    r"""Return JSON that is safe inside a <script> element: no <, > or & is left, and no non-finite number.

    >>> inline_json({"a": "</script>"})
    Markup('{"a": "\\u003c/script\\u003e"}')
    """
    text = json.dumps(_finite(value), ensure_ascii=True, sort_keys=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def breakable(name: str) -> Markup:
    """Return a name that may break after its underscores, signs and dots, and before its brackets; no number breaks.

    >>> breakable("a_b<[c=0.1]")
    Markup('a_<wbr>b&lt;<wbr>[c=<wbr>0.1]')
    """
    broken = re.sub(r"([_+=,/]|[.-](?!\d))(?=.)", r"\1<wbr>", str(markup_escape(visible(name))))
    return Markup(re.sub(r"(?<=.)([\[(·])", r"<wbr>\1", broken))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def for_markdown(text: str) -> str:
    r"""Escape a text for Markdown: one line, no HTML, no link, no table border.

    >>> print(for_markdown("<img> a|b *c*"))
    &lt;img&gt; a\|b \*c\*
    """
    return _MARKDOWN.sub(r"\\\1", escape(visible(re.sub(r"\s+", " ", text)), quote=False))


def fenced(text: str) -> str:
    """Return text as a block of code in Markdown, in a fence that it does not hold."""
    text = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"

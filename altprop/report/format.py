"""Numbers as people read them: sensible digits, a real minus sign, SI prefixes for counts and units for the rest."""

from __future__ import annotations

import math
import re
import unicodedata

from altprop.report.statistics import Interval

FAILED = "failed"
MISSING = "–"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_EXPONENT = re.compile(r"e([+-])0*(\d)")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals(value: float) -> int:
    """Return how many decimals show a value with three digits or so: three from 0.1 to 10, more below, fewer above.

    >>> decimals(0.94), decimals(0.0041), decimals(123.4)
    (3, 5, 0)
    """
    if value == 0 or not math.isfinite(value):
        return 3
    power = math.floor(math.log10(abs(value)))
    return 3 if power in (-1, 0) else max(0, 2 - power)


def number(value: float | None, places: int | None = None) -> str:
    """Format a metric's value with about three digits, or the given number of decimals; "failed" for minus infinity.

    >>> number(0.94561), number(-0.5), number(1234567.0), number(0.0041312), number(0.000012345), number(-math.inf)
    ('0.946', '−0.500', '1234567', '0.00413', '1.23 × 10⁻⁵', 'failed')
    >>> number(-0.001, 2)
    '0.00'
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return FAILED if value < 0 else "∞"
    if value == 0:
        return "0"
    if (places is None and abs(value) < 9.995e-4) or abs(value) >= 1e9:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    else:
        text = f"{value:.{decimals(value) if places is None else places}f}"
        text = text.lstrip("-") if float(text) == 0 else text
    return text.replace("-", "−")


def brief(value: float | None) -> str:
    """Format a value of which the size matters, with two digits.

    >>> brief(0.00123), brief(0.96123), brief(None)
    ('0.0012', '0.96', '–')
    """
    if value is None or not math.isfinite(value) or value == 0 or not 1e-4 <= abs(value) < 10:
        return number(value)
    return f"{value:.{max(2, 1 - math.floor(math.log10(abs(value))))}f}".replace("-", "−")


def signed(value: float | None, places: int | None = None) -> str:
    """Format a difference, always with its sign.

    >>> signed(0.123), signed(-0.02, 2), signed(0.0)
    ('+0.123', '−0.02', '0')
    """
    text = number(value, places)
    return f"+{text}" if value is not None and value > 0 and math.isfinite(value) else text


def places(interval: Interval) -> int | None:
    """Return the decimals for an interval and its estimate alike.

    They are those of the largest; None where all are too small for any.
    """
    parts = (interval.estimate, interval.low, interval.high)
    largest = max((abs(part) for part in parts if part is not None and math.isfinite(part)), default=0.0)
    return None if largest < 9.995e-4 else decimals(largest)


def span(interval: Interval | None) -> str:
    """Format the limits of an interval, as nothing where it has none.

    >>> span(Interval(0.5, 0.25, 0.75, "t")), span(Interval(0.5, None, None, "t"))
    ('[0.250, 0.750]', '')
    """
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"[{number(interval.low, places(interval))}, {number(interval.high, places(interval))}]"


def count(value: float | None, digits: int = 3) -> str:
    """Format a count with an SI prefix; "never" for an infinite one.

    >>> count(950), count(1234567), count(2e9), count(math.inf), count(12.5)
    ('950', '1.23 M', '2.00 G', 'never', '12.5')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "never"
    size = abs(value)
    for factor, prefix in _PREFIXES:
        if size >= factor * 0.9995:
            scaled = value / factor
            decimals = max(0, digits - 1 - math.floor(math.log10(abs(scaled) * 1.0005)))
            return f"{scaled:.{decimals}f} {prefix}".replace("-", "−")
    if float(value).is_integer():
        return f"{value:.0f}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def octets(value: float | None) -> str:
    """Format a size in bytes.

    >>> octets(0), octets(512), octets(401_000)
    ('0 B', '512 B', '401 kB')
    """
    text = count(value)
    if text == MISSING:
        return text
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def seconds(value: float | None) -> str:
    """Format a duration that is given in seconds.

    >>> seconds(0.00047), seconds(0.0042), seconds(1.234), seconds(75), seconds(7500), seconds(math.inf)
    ('470 µs', '4.2 ms', '1.23 s', '75.0 s', '125 min', 'never')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "never"
    if 0 < value < 0.000995:
        return f"{float(f'{value * 1e6:.2g}'):g} µs"
    if value < 1:
        return f"{value * 1e3:.2g} ms" if value < 0.0995 else f"{value:.2f} s"
    if value < 600:
        return f"{value:.{2 if value < 10 else 1}f} s"
    return f"{value / 60:.0f} min"


def percent(value: float | None, places: int = 0) -> str:
    """Format a share as a percentage.

    >>> percent(0.7), percent(None)
    ('70 %', '–')
    """
    if value is None or math.isnan(value):
        return MISSING
    text = f"{100 * value:.{places}f}"
    return f"{text.lstrip('-') if float(text) == 0 else text} %".replace("-", "−")


def figure(value: float | None, digits: int = 2) -> str:
    """Format a figure that may be of any size, with so many digits and none that say nothing.

    >>> figure(0.4214), figure(1e-15), figure(2.377e-16, 3), figure(0.0), figure(4.0), figure(math.nan)
    ('0.42', '10⁻¹⁵', '2.38 × 10⁻¹⁶', '0', '4', 'NaN')
    """
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits, math.floor(math.log10(abs(value))) + 1) if value else 1}g}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return {"1": power, "-1": f"−{power}"}.get(mantissa, f"{mantissa} × {power}".replace("-", "−"))


def p_value(value: float) -> str:
    """Format a p-value.

    >>> p_value(0.25), p_value(0.00001), p_value(1.0)
    ('0.250', '< 0.001', '1')
    """
    return "< 0.001" if value < 0.001 else "1" if value > 0.9995 else f"{value:.3f}"


def quantity(value: float | None, currency: str) -> str:
    """Format an amount of a currency: seconds as seconds, everything else as a count."""
    return seconds(value) if currency == "cpu_seconds" else count(value)


def plural(n: int, word: str, several: str | None = None) -> str:
    """Format a count with its noun.

    >>> plural(1, "seed"), plural(3, "seed"), plural(2, "has", "have")
    ('1 seed', '3 seeds', '2 have')
    """
    return f"{n} {word if n == 1 else several or word + 's'}"


def setting(value: object) -> str:
    """Format the value of an option, as people type it.

    >>> setting(0.00310001), setting(1e-05), setting(100000.0), setting("relu"), setting(True), setting(None)
    ('0.0031', '1e-5', '1e5', 'relu', 'true', '–')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _EXPONENT.sub(r"e\1\2", f"{value:.3g}").replace("e+", "e")
    return str(value)


def visible(text: str) -> str:
    r"""Write out the characters of a text that would act unseen: controls, and those that turn the direction.

    >>> visible("a\x07b\u202ec")
    'a\\x07b\\u202ec'
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def short(text: str, length: int = 26) -> str:
    r"""Make a name fit for a figure: one line, printable, cut in the middle where it is too long.

    >>> short("a" * 30, 10), short("two\nlines")
    ('aaaaa…aaaa', 'two lines')
    """
    clean = " ".join("".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text).split())
    if len(clean) <= length:
        return clean
    head = length // 2
    return f"{clean[:head]}…{clean[-(length - head - 1) :]}"

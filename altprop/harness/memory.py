"""A limit on the memory of a run's own process, so that a run that grows without bound ends alone and with a sentence.

The limit is RLIMIT_DATA: the private, writable memory of the process. Measured with torch on Linux, it stops the same
allocations as a limit on the address space (RLIMIT_AS), of tensors, arrays, convolutions and Python objects alike, each
with an error that can be caught. But it leaves out what is only mapped: a process that has imported the harness holds
365 MB of private memory in 854 MB of addresses, and CUDA reserves addresses by the terabyte.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([KMGT]I?)?B?", re.IGNORECASE)
_LEAST = 10**6


def read_bytes(value: Any, name: str = "memory") -> int | None:
    """Return a number of bytes from a number or a text with a unit; None stays None.

    >>> read_bytes("4GB"), read_bytes("1.5 GiB"), read_bytes(5e8)
    (4000000000, 1610612736, 500000000)

    Raises:
        AltpropError: for anything else, for less than a megabyte (a forgotten unit), and where no limit can be set.
    """
    if value is None:
        return None
    match = _SIZE.fullmatch(str(value).strip()) if isinstance(value, str) else None
    if match is not None:
        size = float(match[1]) * _UNITS[(match[2] or "").upper()]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        size = float(value)
    else:
        size = float("nan")
    if not _LEAST <= size < 2.0**63:
        raise AltpropError(f"{name} must be a size of at least 1MB, such as 4GB or 500MiB; got {value!r}")
    if sys.platform != "linux":
        raise AltpropError(f"{name} can be limited on Linux only; leave {name}= out, or limit it from outside")
    return int(size)


def in_words(size: int) -> str:
    """Return a number of bytes with the largest unit that leaves at most three digits behind the point.

    >>> in_words(4_000_000_000), in_words(1_610_612_736), in_words(365_400_000)
    ('4GB', '1.61GB', '365.4MB')
    """
    unit = next(unit for unit in "TGMK" if size >= _UNITS[unit] or unit == "K")
    digits = 2 if unit in "TG" else 1
    return f"{round(size / _UNITS[unit], digits):g}{unit}B"


@contextlib.contextmanager
def limited(size: int | None) -> Iterator[None]:
    """Let the body hold at most `size` bytes of private memory, imports included; None sets no limit.

    The limit is lifted afterwards, so that what went wrong can still be written down.

    Raises:
        MemoryError: if the process already holds more before the body begins.
    """
    if size is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    held = _held()
    if held >= size:
        raise MemoryError(f"before it began, its process held {in_words(held)}")
    resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _held() -> int:
    """Return the bytes that count towards the limit now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0

"""Where a result comes from: versions, processor, threads, the state of the source; and the fingerprint of it all."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from altprop.records.encode import canonical_json
from altprop.records.key import KERNEL
from altprop.version import __version__

_DISTRIBUTIONS = {"torch": "torch", "lightning": "pytorch-lightning", "hydra": "hydra-core", "numpy": "numpy"}
_ALSO = ("deap", "scipy", "scikit-learn", "pytorch_optimizer")
_SOURCES = ("altprop", "algorithms", "tasks", "conf")
BITWISE = ("python", "torch", "numpy", "cpu", "capability", "threads", "device", "precision", "kernel")
"""The fields that must be equal before two `result` blocks can be expected to be equal bit for bit."""


def collect(
    device: str = "cpu", precision: str = "32", threads: int | None = None, kernel: int = KERNEL
) -> dict[str, Any]:
    """Return the `provenance` block of a record.

    Args:
        device: The torch device, such as "cpu" or "cuda:0"; on CUDA the log's name is recorded with it.
        precision: The trainer's precision.
        threads: The number of torch's threads; None asks torch.
        kernel: The number of the harness's results.

    Returns:
        Versions (None where not installed), `cpu`, `capability`, `threads`, `device`, `precision`, `git_sha` and
        `git_dirty` (None in a wheel, the latter also for a clean tree), `kernel`, and `fingerprint` of the fields
        `BITWISE`.
    """
    block: dict[str, Any] = {"altprop": __version__, "python": platform.python_version()}
    block |= {name: version(distribution) for name, distribution in _DISTRIBUTIONS.items()}
    block |= {
        "also": {name: version(name) for name in _ALSO},
        "system": platform.system(),
        "machine": platform.machine(),
    }
    block |= {"cpu": cpu_model(), "capability": capability(), "threads": _threads() if threads is None else threads}
    sha, dirty = git_state()
    block |= {
        "device": _device(device),
        "precision": str(precision),
        "git_sha": sha,
        "git_dirty": dirty,
        "kernel": kernel,
    }
    return {**block, "fingerprint": digest(block)}


def fingerprint(device: str = "cpu", precision: str = "32", threads: int | None = None, kernel: int = KERNEL) -> str:
    """Return what two machines must have in common for bitwise equal results (32 hex digits)."""
    return str(collect(device, precision, threads, kernel)["fingerprint"])


def digest(block: dict[str, Any]) -> str:
    """Return the fingerprint of a provenance block."""
    return hashlib.sha256(canonical_json({name: block[name] for name in BITWISE}).encode()).hexdigest()[:32]


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return, as short texts, the fields of `BITWISE` in which two provenance blocks differ.

    >>> differences({"torch": "2.13.0", "threads": 1}, {"torch": "2.12.1", "threads": 1})
    ['torch 2.13.0 / 2.12.1']
    """
    return [f"{name} {ours.get(name)} / {theirs.get(name)}" for name in BITWISE if ours.get(name) != theirs.get(name)]


@functools.cache
def version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def cpu_model() -> str:
    """Return the processor's name as its maker writes it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "cpu model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        return _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine() or "unknown"


@functools.cache
def capability() -> str:
    """Return the vector instructions that torch's kernels use here, such as "AVX2"; they change the last bits."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _device(device: str) -> str:
    kind = device.partition(":")[0]
    if kind != "cuda":
        return kind
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if torch.cuda.is_available() else kind


@functools.cache
def git_state() -> tuple[str | None, str | None]:
    """Return the commit of the working tree that altprop runs from, and a hash of what differs from it.

    Returns:
        The commit (40 hex digits), None if altprop lies in no repository of its own (a wheel in somebody's project);
        and 16 hex digits over all changed and untracked source files, None for a clean tree.
    """
    root = Path(__file__).resolve().parents[2]
    if _run("git", "ls-files", "--error-unmatch", "altprop/__init__.py", folder=root) is None:
        return None, None
    sha = _run("git", "rev-parse", "--verify", "HEAD", folder=root)
    folders = [name for name in _SOURCES if (root / name).is_dir()]
    changed = _run("git", "diff", "--name-only", "--relative", "HEAD", "--", *folders, folder=root)
    added = _run("git", "ls-files", "--others", "--exclude-standard", "--", *folders, folder=root)
    names = sorted({*(changed or "").splitlines(), *(added or "").splitlines()})
    if not names:
        return sha, None
    total = hashlib.sha256()
    for name in names:
        file = root / name
        content = file.read_bytes() if file.is_file() else b"deleted"
        total.update(f"{name}\n{hashlib.sha256(content).hexdigest()}\n".encode())
    return sha, total.hexdigest()[:16]


def _run(*command: str, folder: Path | None = None) -> str | None:
    """Return what a command prints, or None if it fails, is not installed or takes longer than five seconds."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # Set in hooks, where they name another tree.
        environment.pop(name, None)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

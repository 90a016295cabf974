import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import altprop
from altprop.records import provenance


def test_the_block_has_the_fields_of_the_schema():
    block = provenance.collect(threads=1)
    assert set(block) >= {
        "altprop", "python", "torch", "lightning", "hydra", "numpy", "cpu", "capability", "threads", "device",
        "precision", "git_sha", "git_dirty", "kernel", "fingerprint",
    }  # fmt: skip
    assert block["torch"] == torch.__version__
    assert block["capability"] == torch.backends.cpu.get_cpu_capability()
    assert block["altprop"] == altprop.__version__
    assert block["cpu"]
    assert (block["threads"], block["device"], block["precision"]) == (1, "cpu", "32")
    assert provenance.collect()["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("field", provenance.BITWISE)
def test_the_fingerprint_varies_with_what_changes_the_bits(field):
    block = provenance.collect(threads=1)
    assert provenance.digest({**block, field: "other"}) != block["fingerprint"]
    assert provenance.differences(block, {**block, field: "other"}) == [f"{field} {block[field]} / other"]


@pytest.mark.parametrize("field", ["altprop", "git_sha", "git_dirty", "hydra", "lightning"])
def test_the_fingerprint_does_not_vary_with_the_rest(field):
    block = provenance.collect(threads=1)
    assert provenance.digest({**block, field: "other"}) == block["fingerprint"]
    assert provenance.differences(block, {**block, field: "other"}) == []
    assert provenance.fingerprint(threads=1) == block["fingerprint"]


def test_what_is_not_installed_has_no_version():
    assert provenance.version("no-such-distribution-anywhere") is None
    assert provenance.version("torch")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository in which altprop seems to lie, with git and the question for its state."""
    (tmp_path / "altprop").mkdir()
    (tmp_path / "altprop" / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "altprop" / "records" / "provenance.py"))

    def git(*command):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", *identity, *command], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    return tmp_path, git, provenance.git_state.__wrapped__


def test_the_commit_and_what_differs_from_it(tree):
    folder, git, state = tree
    assert state() == (None, None), "no repository"
    git("init", "-q")
    assert state() == (None, None), "somebody's repository, in which altprop is not tracked"
    git("add", "altprop")
    git("commit", "-qm", "first")
    clean = (git("rev-parse", "HEAD"), None)
    assert state() == clean
    (folder / "notes.txt").write_text("what is no source does not count")
    assert state() == clean
    seen = set()
    for text in ("x = 2\n", "x = 3\n"):
        (folder / "altprop" / "__init__.py").write_text(text)
        sha, dirty = state()
        assert sha == clean[0]
        seen.add(dirty)
    (folder / "altprop" / "new.py").write_text("y = 1\n")
    seen.add(state()[1])
    assert len(seen) == 3
    assert all(len(dirty) == 16 for dirty in seen)
    (folder / "altprop" / "new.py").unlink()
    (folder / "altprop" / "__init__.py").write_text("x = 1\n")
    assert state() == clean


def test_a_hook_of_another_repository_does_not_mislead(tree, monkeypatch):
    _, git, state = tree
    git("init", "-q")
    git("add", "altprop")
    git("commit", "-qm", "first")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert state() == (git("rev-parse", "HEAD"), None)


def test_without_git_there_is_no_commit(tree, monkeypatch):
    _, git, state = tree
    git("init", "-q")
    git("add", "altprop")
    git("commit", "-qm", "first")
    monkeypatch.setenv("PATH", "/nowhere")
    assert state() == (None, None)


def test_the_state_is_asked_for_once():
    assert provenance.git_state() is provenance.git_state()


def test_importing_it_imports_no_torch():
    code = "import sys, altprop.records.provenance as p; p.cpu_model(); p.git_state(); print('torch' in sys.modules)"
    root = Path(altprop.__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

import sys
import textwrap

import pytest

from altprop.errors import AltpropError
from altprop.records import source
from altprop.records.source import source_hash


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Returns a function that writes a file below a folder on the path, where `homely` stands in for altprop."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source, "_HOME", "homely")

    def write(name, text=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    write("homely/__init__.py", "import homely.report")
    write("homely/report.py", "x = 1")
    write(
        "homely/rule.py",
        "from homely.kernel.step import step\nclass Rule:\n    def go(self):\n        return step(2)\n",
    )
    write("homely/kernel/__init__.py")
    write("homely/kernel/step.py", "from . import deep\ndef step(x):\n    return deep.f(x)\n")
    write("homely/kernel/deep.py", "def f(x):\n    return -x * 0.5\n")
    write("homely/kernel/unused.py", "y = 1")
    return write


def test_comments_docstrings_and_formatting_change_nothing(files):
    before = source_hash(["homely.rule"])
    files(
        "homely/rule.py",
        '''
        """A rule."""
        # why
        from homely.kernel.step import (
            step,
        )


        class Rule:
            """Steps."""

            def go(self):
                "Goes."
                return step( 2 )  # twice
        ''',
    )
    assert source_hash(["homely.rule"]) == before


@pytest.mark.parametrize(
    "body",
    [
        "return step(3)",
        "return step(2.0)",
        "return step(True)",
        "return step('2')",
        "return -step(2)",
        "return step(x=2)",
        "x = 'a string that is no docstring'; return step(2)",
        "yield step(2)",
        "return {**step(2)}",
        "return {step(2): None}",
        "return step(2)[1:]",
        "return step(2)[:1]",
        "return",
        "return None",
    ],
)
def test_code_changes_the_hash_and_each_change_differently(files, body):
    seen = {source_hash(["homely.rule"])}
    head = "from homely.kernel.step import step\nclass Rule:\n    def go(self):\n        "
    for text in ("return step(9)", body):
        files("homely/rule.py", head + text + "\n")
        seen.add(source_hash(["homely.rule"]))
    assert len(seen) == 3


def test_return_and_return_none_are_told_apart_by_the_tree(files):
    hashes = set()
    for text in ("return", "return None", "pass"):
        files("homely/rule.py", f"def f():\n    {text}\n")
        hashes.add(source_hash(["homely.rule"]))
    assert len(hashes) == 3


def test_a_transitive_import_counts_and_what_is_not_imported_does_not(files):
    before = source_hash(["homely.rule"])
    files("homely/kernel/unused.py", "y = 2")
    files("homely/report.py", "x = 2")  # Reached only through the top package, which is the front door to everything.
    assert source_hash(["homely.rule"]) == before
    files("homely/kernel/deep.py", "def f(x):\n    return -x * 0.25\n")
    assert source_hash(["homely.rule"]) != before


@pytest.mark.parametrize(
    "statement",
    [
        "import homely.kernel.unused",
        "import homely.kernel.unused as u",
        "from homely.kernel import unused",
        "from .kernel import unused",
        "from .kernel.unused import y",
        "from homely.kernel.unused import *",
        "def f():\n    from homely.kernel.unused import y",
        "try:\n    import homely.kernel.unused\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_import_is_followed(files, statement):
    files("homely/rule.py", statement + "\n")
    before = source_hash(["homely.rule"])
    files("homely/kernel/unused.py", "y = 2 + 3")
    assert source_hash(["homely.rule"]) != before


def test_imports_for_type_checkers_are_not_followed(files):
    files("homely/rule.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import homely.kernel.unused\n")
    before = source_hash(["homely.rule"])
    files("homely/kernel/unused.py", "y = 2 + 3")
    assert source_hash(["homely.rule"]) == before


def test_circular_imports_end(files):
    files("homely/kernel/deep.py", "import homely.rule\ndef f(x):\n    return x\n")
    assert len(source_hash(["homely.rule"])) == 64


def test_a_plugin_counts_with_its_neighbours_and_with_what_it_takes_from_home(files):
    files("their_pack/__init__.py")
    files("their_pack/my_rule.py", "from homely.kernel import step")
    files("their_pack/beside.py", "a = 1")
    seen = {source_hash(["their_pack.my_rule"])}
    files("their_pack/beside.py", "a = 2 + 2")
    seen.add(source_hash(["their_pack.my_rule"]))
    files("homely/kernel/deep.py", "def f(x):\n    return 0\n")
    seen.add(source_hash(["their_pack.my_rule"]))
    assert len(seen) == 3


def test_a_plugin_of_one_file_counts_with_the_files_that_it_imports(files):
    files("lone_rule.py", "import lone_helper, json")
    files("lone_helper.py", "a = 1")
    before = source_hash(["lone_rule"])
    files("lone_helper.py", "a = 1 + 1")
    assert source_hash(["lone_rule"]) != before
    files("lone_other.py", "a = 1")
    after = source_hash(["lone_rule"])
    files("lone_other.py", "a = 1 + 1")
    assert source_hash(["lone_rule"]) == after


def test_nothing_is_imported_and_libraries_enter_by_name(files):
    files("their_pack/__init__.py", "raise RuntimeError('imported')")
    files("their_pack/my_rule.py", "raise RuntimeError('imported')")
    plain = source_hash(["their_pack.my_rule"])
    assert "their_pack" not in sys.modules
    assert source_hash(["their_pack.my_rule", "torch.optim.adam"]) != plain
    assert "torch.optim.adam" not in source._closure(["torch.optim.adam"])


def test_order_and_repetition_of_the_names_do_not_matter(files):
    assert source_hash(["homely.rule", "homely.report"]) == source_hash(["homely.report", "homely.rule", "homely.rule"])


def test_what_has_no_source_or_is_no_python_is_said(files):
    with pytest.raises(AltpropError, match=r"there is no module homely\.nothing"):
        source_hash(["homely.nothing"])
    files("homely/broken.py", "def f(:")
    with pytest.raises(AltpropError, match=r"broken\.py is not valid Python"):
        source_hash(["homely.broken"])


def test_real_modules_of_this_package_are_found_with_their_imports():
    found = source._closure(["altprop.records.store"])
    assert {"altprop.records.store", "altprop.records.lease", "altprop.records.process", "altprop.errors"} <= set(found)
    assert "altprop" not in found

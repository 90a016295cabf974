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
    found = source._closure(["altprop.models.mlp"])
    assert {"altprop.models.mlp", "altprop.models.base", "altprop.noise", "altprop.errors"} <= set(found)
    assert "altprop" not in found


def test_a_name_of_the_front_door_is_followed_to_where_it_lives(files, monkeypatch):
    monkeypatch.setattr(source, "EXPORTS", {"step": "homely.kernel.step"})
    for text in ("from homely import step", "import homely\nhomely.step(2)"):
        files("their_rule.py", text)
        before = source_hash(["their_rule"])
        files("homely/kernel/deep.py", f"def f(x):\n    return {text!r}\n")
        assert source_hash(["their_rule"]) != before


@pytest.mark.parametrize("part", ["catalogue", "cli", "conformance", "harness", "records", "report", "testing"])
def test_what_no_step_calls_is_not_followed(files, part):
    files("homely/rule.py", f"import homely.{part}.tools\n")
    files(f"homely/{part}/__init__.py")
    files(f"homely/{part}/tools.py", "y = 1")
    before = source_hash(["homely.rule"]), source_hash(["homely.rule"], oracles=True)
    files(f"homely/{part}/tools.py", "y = 1 + 1")
    after = source_hash(["homely.rule"]), source_hash(["homely.rule"], oracles=True)
    assert [one != other for one, other in zip(before, after, strict=True)] == [False, part == "testing"]


@pytest.mark.parametrize("part", ["optim", "probes"])
def test_a_gated_package_counts_where_it_is_a_root_or_a_plugin_imports_it(files, part):
    files(f"homely/{part}/__init__.py")
    files(f"homely/{part}/steps.py", "y = 1")
    files("homely/kernel/deep.py", f"import homely.{part}.steps\ndef f(x):\n    return -x\n")
    files("homely/algorithms/__init__.py")
    files("homely/algorithms/own.py", f"import homely.{part}.steps")
    files("homely/algorithms/other.py", "import homely.kernel.deep")
    files("their_pack/__init__.py")
    files("their_pack/own.py", f"from homely.{part} import steps")

    def hashes():
        plain = ("homely.rule", "homely.algorithms.own", "homely.algorithms.other", "their_pack.own")
        roots = [[name] for name in plain] + [["homely.rule", f"homely.{part}"]]
        return [source_hash(names) for names in roots] + [source_hash(["homely.rule"], oracles=True)]

    before = hashes()
    files(f"homely/{part}/steps.py", "y = 1 + 1")
    changed = [one != other for one, other in zip(before, hashes(), strict=True)]
    assert changed == [False, True, False, True, True, True]


PROVEN = """
    from typing import TYPE_CHECKING
    from homely.kernel.step import step
    from homely.kernel import deep, unused
    import homely.testing as bench

    if TYPE_CHECKING:
        from homely.kernel import unused as hint

    LEAST = 1
    _SHARED = 2
    _TOLERANCE = 1e-3

    class Rule:
        def go(self):
            return step(_helper(LEAST))

        @classmethod
        def oracles(cls):
            return (bench.Oracle("equal", _error, _TOLERANCE),)

    def _helper(x):
        return x + _SHARED

    def _error():
        return deep.f(_worst() + _SHARED) + unused.y

    def _worst():
        return 3

    def _idle():
        return 4

    def public():
        return 5
    """


@pytest.mark.parametrize(
    ("old", "new", "of_the_run"),
    [
        ('"equal"', '"the same"', False),
        ("return 3", "return 33", False),
        ("1e-3", "1e-4", False),
        ("+ unused.y", "- unused.y", False),
        ("import deep, unused", "import deep", False),
        ("import homely.testing as bench", "import homely.report as bench", False),
        ("            return (bench", "            x = public()\n            return (bench", False),
        ("unused as hint", "deep as hint", None),
        ("_SHARED = 2", "_SHARED = 22", True),
        ("LEAST = 1", "LEAST = 11", True),
        ("return x + _SHARED", "return x - _SHARED", True),
        ("return 4", "return 44", True),
        ("return 5", "return 55", True),
        ("step(_helper(LEAST))", "step(_helper(LEAST) + _worst())", True),
        ("import step\n", "import step as step\n", True),
    ],
)
def test_the_oracles_are_part_of_the_oracle_check_and_not_of_the_run(files, old, new, of_the_run):
    """`of_the_run` is None where a change is of neither."""
    files("homely/rule.py", PROVEN)
    before = source_hash(["homely.rule"]), source_hash(["homely.rule"], oracles=True)
    assert old in PROVEN
    files("homely/rule.py", PROVEN.replace(old, new))
    after = source_hash(["homely.rule"]), source_hash(["homely.rule"], oracles=True)
    changed = [one != other for one, other in zip(before, after, strict=True)]
    assert changed == [of_the_run is True, of_the_run is not None]


def test_what_the_oracles_alone_imports_is_not_followed(files):
    files("homely/rule.py", PROVEN)
    files("homely/kernel/step.py", "def step(x):\n    return x\n")
    before = source_hash(["homely.rule"]), source_hash(["homely.rule"], oracles=True)
    files("homely/kernel/deep.py", "def f(x):\n    return 0\n")
    after = source_hash(["homely.rule"]), source_hash(["homely.rule"], oracles=True)
    assert [one != other for one, other in zip(before, after, strict=True)] == [False, True]


def test_what_a_private_definition_shares_with_getattr_or_a_quoted_annotation_stays(files):
    text = (
        "import homely.kernel.deep as deep\n"
        "class Rule:\n"
        "    def go(self) -> '_Kind':\n"
        "        return getattr(deep, 'f')\n"
        "    def oracles(cls):\n"
        "        return _Kind, deep\n"
        "class _Kind:\n"
        "    x = 1\n"
    )
    files("homely/rule.py", text)
    before = source_hash(["homely.rule"])
    files("homely/rule.py", text.replace("x = 1", "x = 2"))
    assert source_hash(["homely.rule"]) != before

"""The page that PyTerrier's documentation takes from the package."""

import importlib.resources
import inspect
import re

import pyterrier_merge

PAGE = (importlib.resources.files(pyterrier_merge) / "pt_docs" / "index.rst").read_text(encoding="utf-8")
DOCUMENTED = re.findall(
    r"^\.\. auto(class|function):: pyterrier_merge\.(\w+)\n(?:   :members:(.*)\n)?", PAGE, re.MULTILINE
)


def test_every_public_name_is_on_the_page_once():
    names = [name for _, name, _ in DOCUMENTED]
    assert sorted(names) == sorted(set(pyterrier_merge.__all__) - {"__version__"})


def test_what_is_on_the_page_is_there_and_documented():
    for kind, name, members in DOCUMENTED:
        documented = getattr(pyterrier_merge, name)
        assert inspect.isclass(documented) == (kind == "class"), name
        for member in filter(None, (member.strip() for member in members.split(","))):
            assert inspect.getdoc(inspect.getattr_static(documented, member)), f"{name}.{member}"


def test_its_code_compiles():
    blocks = re.findall(r"^\.\. code-block:: python\n(?:   :.*\n)*\n((?:   .*\n|\n)+)", PAGE, re.MULTILINE)
    assert blocks
    for block in blocks:
        compile(inspect.cleandoc(block), "index.rst", "exec")

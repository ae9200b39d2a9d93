"""Imports go one way: the module graph has no circle, and each package imports those below it.

Import statements are read from the source, those inside functions too, since a circle that is
closed while a function runs is still a circle. Those under `TYPE_CHECKING` do not run.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import diffzero

ROOT = Path(diffzero.__file__).parent

# Package -> the modules in it, by their longest matching prefix. To rename one, change it here.
PACKAGES = {
    "core": [
        "errors",
        "schedule",
        "noise",
        "prompts",
        "images",
        "options",
        "reach",
        "temperature",
        "words",
    ],
    "models": ["models"],
    "scoring": ["scoring"],
    "methods": ["classifier", "methods", "pipelines"],
    "data": ["data"],
    "evaluate": ["evaluate"],
    "experiments": ["experiments"],
    "train": ["train"],
    "console": ["app.console"],
    "app": ["app", "__main__"],
    "names": [""],  # diffzero/__init__.py: public names, resolved on first use
}
# Package -> the other packages that it may import; its own modules it may always.
MAY_IMPORT = {
    "core": set(),
    "models": {"core"},
    "scoring": {"core", "models"},
    "methods": {"core", "models", "scoring"},
    "data": {"core"},
    "evaluate": {"core", "models", "scoring", "methods", "data"},
    "experiments": {"core", "models", "scoring", "methods", "data", "evaluate"},
    "train": {"core", "models", "scoring", "methods", "data", "evaluate"},
    "console": set(),
    "app": {"core", "models", "methods", "data", "evaluate", "experiments", "train", "console",
            "names"},
    "names": set(),
}  # fmt: skip
# (importing module, imported module) -> why it is let through, and when it goes.
NOT_YET: dict[tuple[str, str], str] = {}


def module_of(path, root=ROOT):
    """Dotted name below `diffzero`; the package itself is the empty one."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def that_run(node):
    """A node and all below it, but for what only type checkers look at."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for child in node.orelse:
            yield from that_run(child)
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from that_run(child)


def targets(node, package):
    """What an import statement names, as absolute dotted names: a module, or a name in one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = ["diffzero", *package.split(".")] if package else ["diffzero"]
        parts = parts[: len(parts) - node.level + 1]
        base = ".".join([*parts, *([base] if base else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def imports_of(source, package, modules):
    """Modules of diffzero that a source imports when all of it runs.

    Args:
        source: Python text.
        package: Dotted name of the package that relative imports start from.
        modules: Every module there is.
    """
    found = set()
    for node in that_run(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets(node, package):
                top, _, below = target.partition(".")
                if top == "diffzero":
                    found.add(below if below in modules else below.rpartition(".")[0])
    return found


def package_of(module):
    """The package in the table that holds a module."""
    fits = {
        prefix: package
        for package, prefixes in PACKAGES.items()
        for prefix in prefixes
        if module == prefix or (prefix and module.startswith(prefix + "."))
    }
    assert fits, f"{module} is in no package of the table in {Path(__file__).name}; add it there"
    return fits[max(fits, key=len)]


@pytest.fixture(scope="module")
def graph():
    files = {module_of(path): path for path in ROOT.rglob("*.py")}
    return {
        module: imports_of(
            path.read_text(encoding="utf-8"),
            module if path.name == "__init__.py" else module.rpartition(".")[0],
            files,
        )
        - {module}
        for module, path in files.items()
    }


def test_no_circle(graph):
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("imports go in a circle: " + " <- ".join(error.args[1]))


def test_packages_import_only_those_below(graph):
    wrong = {
        (module, other): f"{package_of(module)} may not import {package_of(other)}"
        for module, others in graph.items()
        for other in others
        if package_of(other) not in MAY_IMPORT[package_of(module)] | {package_of(module)}
    }
    unforeseen = {edge: why for edge, why in wrong.items() if edge not in NOT_YET}
    assert not unforeseen
    assert set(NOT_YET) <= set(wrong), "these are mended: take them out of NOT_YET"


def test_the_table_itself_goes_one_way():
    assert set(MAY_IMPORT) == set(PACKAGES)
    list(TopologicalSorter(MAY_IMPORT).static_order())
    assert [name for name, below in MAY_IMPORT.items() if "app" in below] == []


def test_every_kind_of_import_is_seen():
    source = """
from __future__ import annotations
import os, diffzero.noise
from diffzero import ode
from . import figures, page as other
from ..errors import InputError
if TYPE_CHECKING:
    from ..loading import Card
else:
    from .. import images
def f():
    from .deep.down import x
    class C:
        import diffzero.prompts as p
"""
    modules = ["", "noise", "ode", "errors", "loading", "images", "prompts", "evaluate",
               "evaluate.figures", "evaluate.deep.down"]  # fmt: skip
    assert imports_of(source, "evaluate", modules) == {
        "noise", "ode", "evaluate.figures", "evaluate", "errors", "images", "evaluate.deep.down",
        "prompts",
    }  # fmt: skip

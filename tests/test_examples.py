"""Every example runs, and every Python block of the README does."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(p) for p in (ROOT / "docs").glob("*.md"))]
)
def test_python_blocks(page, tmp_path, monkeypatch):
    from PIL import Image

    from diffzero.data import digits_split

    Image.fromarray(digits_split()[1][0][0]).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)


def test_tutorial(capsys):
    """Every cell of the notebook, in order, as a kernel would run it."""
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert names["right"] >= 10 and names["same"] >= 10
    assert names["raced"].evals.sum() < names["scores"].evals.sum()
    assert "places differ clearly" in printed
    assert names["animals"].predict([names["chelsea"]]) == "cat"


def test_readme_is_short_and_its_tree_is_true():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    tree = re.search(r"```text\n(.*?)```", text, re.S)
    listed = re.findall(r"[\w./-]+\.(?:py|yaml)\b", tree.group(1))  # several a line
    source = ROOT / "src" / "diffzero"
    whole = ("data", "evaluate", "experiments", "images", "train", "app")  # one line each
    assert all(f"  {name}/ " in tree.group(1) for name in whole)
    files = [p for p in source.rglob("*.py") if p.parent.name not in whole]
    existing = {p.name for p in files} - {"__init__.py", "__main__.py"}
    assert existing <= {Path(name).name for name in listed}

"""What would keep a page of the site from being read offline, or without eyes, is seen."""

import re
import sys

import nbformat
import pytest

from dashkit.storage.paths import ROOT

sys.path.append(str(ROOT / "docs"))

pages = pytest.importorskip("pages", reason="Sphinx is not installed")
conf = pytest.importorskip("conf")


@pytest.mark.parametrize(("page", "wanted"), [
    ('<p>fine</p><img src="a.png" alt="a curve"><a href="https://arxiv.org">paper</a>', []),
    ('<script src="https://cdn.example/x.js"></script>', ["fetches https://cdn.example/x.js"]),
    ('<link rel="stylesheet" href="//cdn.example/x.css">', ["fetches //cdn.example/x.css"]),
    ('<img src="a.png">', ["a picture without alternative text: a.png"]),
    ('<img src="http://example.org/a.png" alt=" ">',
     ["fetches http://example.org/a.png", "a picture without alternative text: http://example.org/a.png"]),
])  # fmt: skip
def test_pages_that_fetch_or_show_without_words(page, wanted):
    assert pages.complaints(page) == wanted


@pytest.fixture
def executed(tmp_path):
    """A folder with one executed notebook that has a widget."""
    output = nbformat.v4.new_output("display_data", {pages.WIDGET: {"model_id": "x"}, "text/plain": "see above"})
    cell = nbformat.v4.new_code_cell("w", outputs=[output], execution_count=1)
    (tmp_path / "in").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}}),
                   tmp_path / "in" / "00_start_here.ipynb")
    return tmp_path / "in"


def test_sources_leave_dead_widgets_out(executed, tmp_path):
    pages.sources(executed, tmp_path / "out")
    text = (tmp_path / "out" / "00_start_here.ipynb").read_text()
    assert pages.WIDGET not in text and "widgets" not in text and "see above" in text


def test_sources_hold_every_page_and_lead_from_one_to_the_other(executed, tmp_path):
    pages.sources(executed, tmp_path / "out")
    index = (tmp_path / "out" / "index.md").read_text()
    for path in (pages.ROOT / "docs").glob("*.md"):
        assert (tmp_path / "out" / path.name).is_file() and f"\n{path.stem}\n" in index
    assert all(f"\n{name}\n" in index for name in ("00_start_here", "instructor", "glossary", "data", "changelog",
                                                    "contributing", "dashkit.method", "dashkit.experiments"))
    assert "](00_start_here.ipynb)" in index and "](data.md)" in index and "](performance.md#on-gpus)" in index
    pictures = re.findall(r"!\[[^\]]+\]\((files/[^)]+)\)", index)
    assert pictures and all((tmp_path / "out" / picture).is_file() for picture in pictures)


def test_a_link_to_a_file_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "a.md").write_text("see [b](b.md) and [the paper](https://arxiv.org)")
    with pytest.raises(ValueError, match=r"a\.md links to b\.md, and there is no such file"):
        pages.page(tmp_path / "a.md", {}, tmp_path)


def test_references_hold_every_module_the_lesson_first(tmp_path):
    text = pages.reference("dashkit.method", ("schedule", "guidance"))
    found = re.findall(r"automodule:: dashkit\.method\.(\w+)", text)
    assert found[:2] == ["schedule", "guidance"]
    assert set(found) == {p.stem for p in (ROOT / "dashkit" / "method").glob("*.py")} - {"__init__"}


def test_docstrings_become_restructured_text():
    said = conf.plain(["One |x|^2 of `a_b` and *c*_d.", "", "    y = 2", "", ">>> 1", "1"], ["x: Tensor   # (B,)"])
    assert said == [r"One \|x\|^2 of ``a_b`` and \*c\*\_d.", "", "::", "", "    y = 2", "", ">>> 1", "1", "", "::", "",
                    "    x: Tensor   # (B,)", ""]

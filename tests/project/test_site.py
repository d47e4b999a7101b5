"""What would keep a page of the site from being read offline, or without eyes, is seen."""

import sys

import nbformat
import pytest

from dashkit.storage.paths import ROOT

sys.path.append(str(ROOT / "docs"))

pages = pytest.importorskip("pages", reason="Sphinx is not installed")


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


def test_sources_leave_dead_widgets_out(tmp_path):
    output = nbformat.v4.new_output("display_data", {pages.WIDGET: {"model_id": "x"}, "text/plain": "see above"})
    cell = nbformat.v4.new_code_cell("w", outputs=[output], execution_count=1)
    (tmp_path / "in").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}}),
                   tmp_path / "in" / "00_x.ipynb")
    pages.sources(tmp_path / "in", tmp_path / "out")
    text = (tmp_path / "out" / "00_x.ipynb").read_text()
    assert pages.WIDGET not in text and "widgets" not in text and "see above" in text
    index = (tmp_path / "out" / "index.md").read_text()
    assert "00_x" in index and "INSTRUCTOR" in index and "files/w_curve.png" in index
    assert (tmp_path / "out" / "files" / "w_curve.png").is_file()

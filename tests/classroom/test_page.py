"""A notebook's page: its formulas are drawn by the browser alone, and nothing is fetched."""

import re

import nbformat
import pytest

from dashkit.classroom.notebooks import notebook_paths
from dashkit.classroom.page import WIDGET, mathml, notebook_page


def written(text, *outputs):
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1", outputs=list(outputs))]
    return notebook_page(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {"state": {}}})).decode()


def test_formulas_are_mathml_and_the_rest_is_markdown():
    page = written("Here $\\bar\\alpha_t$ and **bold**.\n\n$$\\epsilon_w = u + w\\,(c - u)$$\n\n| a | b |\n|---|---|\n"
                   "| `$x` | $\\lVert g\\rVert$ |")
    assert page.count("<math") == 3 and page.count('display="block"') == 1
    assert "<strong>bold</strong>" in page and "<code>$x</code>" in page and "$\\" not in page


def test_a_page_fetches_nothing_and_a_widget_is_its_text():
    shown = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "x"}, "text/plain": "see above"})
    page = written("text", shown)
    assert "see above" in page and WIDGET not in page
    assert not re.search(r"""(src\s*=|import\(|href=)\s*["'](https?:)?//""", page)


@pytest.mark.parametrize("formula", [r"\frac{1}{", r"a_1_2", "{", r"\left("])
def test_a_formula_that_cannot_be_converted_stays_as_it_was_written(formula):
    assert mathml(formula).startswith(("<code>", "<math"))


def test_every_formula_of_the_series_can_be_converted():
    found = 0
    for path in notebook_paths():
        for cell in nbformat.read(path, as_version=4).cells:
            text = re.sub(r"`[^`]*`", "", cell.source) if cell.cell_type == "markdown" else ""
            for block, line in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.S):
                found += 1
                assert mathml(block or line).startswith("<math"), (path.name, block or line)
                assert "\\" not in mathml(block or line), (path.name, block or line)
    assert found > 200

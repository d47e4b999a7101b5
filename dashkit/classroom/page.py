"""A notebook as one HTML page that needs no network: formulas are MathML, and a widget is the text beside it."""

import copy
from html import escape

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
"""
"""The exporter's own page, without the scripts that it would fetch."""


def mathml(formula: str, *, block: bool = False) -> str:
    """A LaTeX formula as MathML, which browsers draw by themselves; as it was written, if it cannot be converted."""
    try:
        return convert(formula, display="block" if block else "inline")
    except Exception:                             # the library's errors have no common class
        return f"<code>{escape(formula)}</code>"


class _Renderer(IPythonRenderer):
    """Markdown to HTML, formulas to MathML."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, block=True)


def notebook_page(notebook: NotebookNode) -> bytes:
    """An executed notebook as one self-contained page, in UTF-8."""
    shown = copy.deepcopy(notebook)
    shown.metadata.pop("widgets", None)
    for cell in shown.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    renderer = _Renderer(escape=False)
    exporter = HTMLExporter(raw_template=TEMPLATE)
    exporter.register_filter("markdown2html", lambda text: MarkdownWithMath(renderer=renderer).render(text))
    return exporter.from_notebook_node(shown)[0].encode()

"""A notebook as a page without a kernel: explorers with their states, predictions, hints one at a time, solutions."""

import ast
import base64
import copy
import html
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jinja2
import nbformat
from nbformat import NotebookNode
from PIL import Image

from dashkit.classroom import explorers
from dashkit.classroom.editions import exercises
from dashkit.classroom.exercises import EXERCISES
from dashkit.classroom.notebooks import notebook_paths
from dashkit.experiments.profiles import resolve
from dashkit.storage import paths, store

TEMPLATE = paths.ROOT / "docs" / "site" / "explorer.html"
FIGURE = re.compile(r'<img alt="([^"]*)"[^>]* src="data:image/png;base64,([^"]*)">')


def is_complete(notebook: NotebookNode) -> bool:
    """Whether every figure of a notebook is among its stored outputs."""
    return all(cell.outputs for cell in notebook.cells if cell.cell_type == "code" and "plots.show(" in cell.source)


def for_page(notebook: NotebookNode, name: str, states: Path) -> NotebookNode:
    """A copy of an executed notebook for readers without a kernel; `states` holds a folder for each explorer's cell.

    `name` is the notebook's file without its suffix: exercises link to it.
    """
    made = copy.deepcopy(notebook)
    made.metadata.pop("widgets", None)
    injected = [c for c in made.cells if "injected-parameters" in c.metadata.get("tags", [])]
    made.cells = [c for c in made.cells if c not in injected]
    known = Known()
    asked: dict[str, str] = {}                   # variable: the prediction that it holds
    by_cell = {i: exercise for exercise, i in exercises(made).items()}
    for i, cell in enumerate(made.cells):
        if cell.cell_type != "code":
            continue
        tree, tags = ast.parse(cell.source), cell.metadata.setdefault("tags", [])
        known.take(tree, *(ast.parse(c.source) for c in injected))
        found = list(predictions(tree, known))
        if (states / cell.id / "states.json").is_file():
            tags.append("remove-input")
            cell.outputs = [_output(explorer(states / cell.id))]
        elif found:
            tags.append("remove-input")
            cell.outputs = [_output("".join(form for _, _, form in found))]
            asked |= {variable: prediction for variable, prediction, _ in found}
        elif i in by_cell:
            cell.outputs = [_output(exercise(by_cell[i], name))]
        elif cell.source.startswith("hint("):
            tags.append("remove-cell")           # the exercise before it has them all
        else:
            tags += ["hide-input"] * ("plots.show(" in cell.source or cell.id.endswith(("-imports", "-parameters")))
            used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
            cell.outputs = [*map(_for_reader, cell.outputs),
                            *(_output(recalled(p)) for v, p in asked.items() if v in used and _unmarked(cell, p))]
    return made


def _output(text: str) -> NotebookNode:
    return nbformat.v4.new_output("display_data", {"text/html": text, "text/plain": "see the page"})


def _for_reader(output: NotebookNode) -> NotebookNode:
    """An output without its dead widget, and a figure with what is needed to draw another guess into it."""
    data = output.get("data", {})
    data.pop("application/vnd.jupyter.widget-view+json", None)
    if "text/html" in data:
        data["text/html"] = FIGURE.sub(lambda m: figure(m[1], m[2]), "".join(data["text/html"]))
    return output


def figure(alt: str, code: str) -> str:
    """A figure as HTML from its alternative text, escaped, and its PNG, base64; `data-guess` says where guesses are."""
    guess = Image.open(io.BytesIO(base64.b64decode(code))).info.get("Guess", "")
    known = f" data-guess='{html.escape(guess)}'" if guess else ""
    return f'<div class="figure-box"><img alt="{alt}"{known} src="data:image/png;base64,{code}"></div>'


def _unmarked(cell: NotebookNode, prediction: str) -> bool:
    """Whether no figure of a cell has a place for this prediction."""
    return not any(html.escape(f'"name": "{prediction}"') in o.get("data", {}).get("text/html", "")
                   for o in cell.outputs)


class Known(dict):
    """What names stand for in the cells of a notebook so far, found out when one is asked for.

    It knows what was assigned in a line of its own, `explorers`, and the profile of `run`; KeyError for other names.
    """

    def take(self, *trees: ast.Module) -> None:
        """Learn what these trees assign, one after the other."""
        for node in (node for tree in trees for node in tree.body):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self[node.targets[0].id] = node.value

    def value(self, node: ast.expr) -> object:
        """What an expression is."""
        return eval(compile(ast.Expression(node), "cell", "eval"), {}, self)

    def __getitem__(self, name: str) -> object:
        if name == "explorers":
            return explorers
        if name == "run":
            return SimpleNamespace(profile=resolve(self["profile"], **self["settings"]))
        return self.value(super().__getitem__(name))


def predictions(tree: ast.Module, known: Known) -> Iterator[tuple[str, str, str]]:
    """The calls of `predict` in a cell: the variable, the prediction's name, and a form for it."""
    for node in tree.body:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "predict":
            variable, name = node.targets[0].id, call.args[0].value
            given = {k.arg: k.value for k in call.keywords}
            yield variable, name, prediction(name, variable.replace("_", " "), given, known)


def prediction(name: str, label: str, given: dict[str, ast.expr], known: Known) -> str:
    """A form that the browser keeps: a number, one of some texts or numbers, or a text.

    ValueError if what it may be one of is only known in a kernel.
    """
    field = f'id="prediction-{name}" name="value"'
    if "among" in given:
        try:
            among = list(known.value(given["among"]))
        except (NameError, KeyError, AttributeError, RecursionError) as error:
            said = f"the prediction {name} is one of {ast.unparse(given['among'])}, which a page cannot know"
            raise ValueError(f"{said}; write a list, or give it a name in a line of its own") from error
        texts = [v if isinstance(v, str) else f"{v:g}" for v in among]
        options = "".join(f"<option>{html.escape(text)}</option>" for text in texts)
        control = f"<select {field}><option></option>{options}</select>"
    else:
        kind = "text" if isinstance(ast.literal_eval(given["example"]), str) else 'number" step="any'
        control = f'<input type="{kind}" {field} autocomplete="off" size="12">'
    return (f'<form class="prediction" data-name="{name}" hidden><label for="prediction-{name}">Before you read on, '
            f'{html.escape(label)}:</label> {control} <button>Keep</button> <output></output></form>'
            "<noscript><p>Write your prediction down before you read on.</p></noscript>")


def recalled(name: str) -> str:
    """A line that repeats a prediction, once there is one."""
    return f'<p class="recalled" data-name="{name}" hidden></p>'


def exercise(name: str, notebook: str) -> str:
    """An exercise: the task, where to try it, its hints one at a time, and then its solution."""
    task = EXERCISES[name]
    inner = f"<pre>{html.escape(task.solution)}</pre>"
    for k, text in reversed([*enumerate(task.hints, 1)]):
        following = "Next hint" if k < len(task.hints) else "Solution"
        inner = f"<p>{html.escape(text)}</p><details><summary>{following}</summary>{inner}</details>"
    return (f'<div class="exercise"><p><b>{name}</b> {html.escape(task.task)} To have an answer checked, open '
            f'<a href="files/{notebook}.ipynb" download>the notebook</a>.</p>'
            f"<details><summary>First hint</summary>{inner}</details></div>")


def explorer(folder: Path) -> str:
    """An explorer as HTML, from the folder with its states; its pictures lie in explorers/CELL beside the page."""
    kept = store.read_json(folder / "states.json")
    starts = [c["start"] for c in kept["controls"]]
    state = 0
    for control, k in zip(kept["controls"], starts, strict=True):
        state = state * len(control["values"]) + k
    now = ", ".join(f"{c['label']}: {c['values'][c['start']]}" for c in kept["controls"])
    place = {"folder": f"explorers/{folder.name}"}
    data = json.dumps(kept | place, ensure_ascii=False).replace("</", "<\\/")
    environment = jinja2.Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        kept | place, id=folder.name, start=state, alt=html.escape(f"Figure with {now}"), data=data,
        title=html.escape("Explorer: " + ", ".join(c["label"] for c in kept["controls"])))


def picture(cell: str, folder: Path) -> str:
    """The explorer or the figure of a notebook's cell, for a page in Markdown; ValueError if it has none."""
    if (folder / "explorers" / cell / "states.json").is_file():
        return f"```{{raw}} html\n{explorer(folder / 'explorers' / cell)}\n```"
    [path] = notebook_paths([cell[:2]], folder / "executed")
    for there in nbformat.read(path, as_version=4).cells:
        outputs = there.get("outputs", []) if there.id == cell else []
        found = [m for o in outputs if (m := FIGURE.search("".join(o.get("data", {}).get("text/html", ""))))]
        if found:
            return f"```{{raw}} html\n{figure(found[0][1], found[0][2])}\n```"
    raise ValueError(f"the cell {cell} of {path.name} shows no figure")

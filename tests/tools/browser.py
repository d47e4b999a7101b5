"""Notebooks in a real browser: `python tests/tools/browser.py [NN …]` opens those with a widget in JupyterLab.

Each is executed with the profile smoke, every control is moved by keyboard and moved back, and the figure has to follow
both times.  An error output, an error in a callback, a page error and a request that leaves the machine are failures.
What the notebooks train is trained before, and every limit grows with the time that a figure takes here: how fast a
machine is decides nothing.  Planted defects come first: a harness that finds none of them proves nothing.  Needs
Debian's chromium and playwright; without them it says so and leaves with status 77.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import nbformat

from dashkit.environment import task
from dashkit.storage.paths import BUILD

ROOT = Path(__file__).resolve().parents[2]
SHOTS = BUILD / "browser"
SKIPPED = 77
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
LOCAL = re.compile(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|about:")
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
}
ANSWER, RUN = 20.0, 300.0      # seconds: for a figure to follow its control, for a notebook to run; times `_pace`
FIGURE = 0.15                  # seconds that the figure of `measure_pace` takes where these limits were set


class Moved(NamedTuple):
    """One control that was used: where it is, what it is, and how long its figure took."""

    name: str
    kind: str
    seconds: float


@dataclass
class Report:
    """What was found in one notebook."""

    name: str
    moved: list[Moved] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------- what to open


def with_widgets(numbers: Sequence[str]) -> list[Path]:
    """The numbered notebooks that show a widget, or those of them whose numbers are asked for."""
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    shown = [p for p in paths if re.search(r"\w+\.\w+_explorer\(|ipywidgets", p.read_text())]
    chosen = [p for p in shown if not numbers or p.name[:2] in numbers]
    if not chosen or len(chosen) < len(set(numbers)):
        sys.exit(f"notebooks with a widget: {', '.join(p.name[:2] for p in shown)}; asked for: {', '.join(numbers)}")
    return chosen


_START = """
import io
import ipywidgets as ipw
import numpy as np
from PIL import Image

def png(grey):
    file = io.BytesIO()
    Image.fromarray(np.full((20, 20), grey, dtype="uint8")).save(file, "png")
    return file.getvalue()

def panel(draw, name="a number"):
    slider, image = ipw.IntSlider(value=5, max=10, readout=False), ipw.Image(value=png(100))
    box = ipw.BoundedIntText(value=5, max=10, description=name)
    image.layout.align_self = "flex-start"
    ipw.link((slider, "value"), (box, "value"))
    slider.observe(lambda change: draw(image, change.new), names="value")
    return ipw.VBox([box, slider, image])

def follow(image, value):
    image.value = png(20 * value)
"""
_KINDS = """
shown, tick = ipw.Image(value=png(0), layout={"align_self": "flex-start"}), ipw.Checkbox(description="a tick")
kinds = [ipw.Dropdown(options=list("abc"), description="a choice"), tick,
         ipw.SelectMultiple(options=list("abc"), index=(0, 1), description="a list"),
         ipw.ToggleButtons(options=list("ab"), description="toggles")]
def paint(_):
    shown.value = png(1 + kinds[0].index + 4 * tick.value + 16 * len(kinds[2].index) + 64 * kinds[3].index)
for kind in kinds:
    kind.observe(paint, names="value")
paint(None)
ipw.VBox([*kinds, shown])
"""
PLANTED = {   # id and code of a cell with a defect: what must be said of it
    ("ignores-it", "panel(lambda image, value: None)"): "ignores-it: a number (slider): the figure does not follow",
    ("stays", "greys = iter(range(50))\npanel(lambda image, value: setattr(image, 'value', png(next(greys))))"):
        "stays: a number (slider): the figure does not come back",
    ("callback", "panel(lambda image, value: (follow(image, value), {}['callback']))"):
        "the kernel reports KeyError: 'callback'",
    ("blurred", "blurred = panel(follow)\nblurred.children[-1].layout.align_self = 'stretch'\nblurred"):
        "blurred: the figure is drawn larger than it is, and blurred",
    ("long", "panel(follow, name='a number with a name that nobody has room for')"):
        "long: a number with a name that nobody has room for (number): its name is cut short",
    ("nameless", "panel(follow, name='')"): "nameless: control 0 (number) has no name",
    ("home", "ipw.HTML('<img src=\"https://example.org/x.png\">')"): "https://example.org/x.png left the machine",
    ("page", "from IPython.display import Javascript\nJavascript('setTimeout(() => nowhere(), 0)')"):
        "page error: nowhere is not defined",
    ("raises", "1 / 0"): "raises: ZeroDivisionError: division by zero",
    ("after", "1 + 1"): "after: was not executed",
}


def plant(path: Path, cells: Sequence[tuple[str, str]]) -> None:
    """Write a notebook of these cells (id, code) after the one that they all need."""
    made = [nbformat.v4.new_code_cell(code.strip(), id=name) for name, code in [("start", _START), *cells]]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)


# -------------------------------------------------------------------------------------------------- server and browser


@contextlib.contextmanager
def jupyterlab(folder: Path) -> Iterator[Callable[[str], str]]:
    """JupyterLab on loopback with a random token and no settings but its own; yields what makes a path an address."""
    kinds = ("config", "data", "runtime", "settings", "workspaces", "ipython")
    own = {name: folder / ".jupyter" / name for name in kinds}
    for name, values in SETTINGS.items():
        place = own["settings"] / "@jupyterlab" / f"{name}.jupyterlab-settings"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(24)
    environment = {
        **os.environ, "JUPYTER_CONFIG_DIR": str(own["config"]), "JUPYTER_DATA_DIR": str(own["data"]),
        "JUPYTER_RUNTIME_DIR": str(own["runtime"]), "IPYTHONDIR": str(own["ipython"]), "JUPYTER_TOKEN": token,
        "JUPYTERLAB_SETTINGS_DIR": str(own["settings"]), "JUPYTERLAB_WORKSPACES_DIR": str(own["workspaces"]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--allow-root",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--ServerApp.log_level=ERROR"]

    def address(path: str) -> str:
        return f"http://127.0.0.1:{port}/{path}?token={token}"

    with (folder / ".jupyter" / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait(lambda: server.poll() is not None or _answers(address("api/status")), 60, "JupyterLab did not start")
            if server.poll() is not None:
                raise RuntimeError(f"JupyterLab left: {Path(log.name).read_text()[-2000:]}")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


def ask(address: str, method: str = "GET") -> object:
    """What the server's own interface says."""
    with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=60) as answer:
        return json.loads(answer.read() or "null")


def wait(ready: Callable[[], object], seconds: float, complaint: str, *, pause: float = 0.05) -> None:
    """Poll until `ready` holds; TimeoutError with the complaint if it never does: the seconds are those of `FIGURE`.

    No poll counts for more than two seconds: a machine that is put to sleep in between is not a figure that is late.
    """
    left, last = seconds * _pace, time.monotonic()
    while not ready():
        if left <= 0:
            raise TimeoutError(complaint)
        time.sleep(pause)
        now = time.monotonic()
        left, last = left - min(now - last, 2.0), now


_pace = 1.0                    # how many times slower than where the limits were set


def measure_pace() -> float:
    """How many times longer than `FIGURE` a figure takes here and now; at least 1."""
    from matplotlib import pyplot

    def draw() -> float:
        began = time.perf_counter()
        figure, axes = pyplot.subplots(2, 2)
        for ax in axes.flat:
            ax.plot(range(200))
        figure.savefig(io.BytesIO())
        pyplot.close(figure)
        return time.perf_counter() - began

    draw()                                                            # the first one loads fonts
    return max(1.0, max(draw() for _ in range(5)) / FIGURE)


def train() -> None:
    """Train and measure what the notebooks use, so that none of them has to while it is watched."""
    from dashkit.experiments.run import start_run
    from dashkit.experiments.sweeps import sweep

    sweep(start_run("smoke"))


# ------------------------------------------------------------------------------------------------- inside the page

_CELLS = """() => jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code').map(c => ({
    id: c.model.id, count: c.model.executionCount, empty: !c.model.sharedModel.getSource().trim(),
    errors: c.model.outputs.toJSON().filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`),
    widget: c.model.outputs.toJSON().some(o => o.data && 'application/vnd.jupyter.widget-view+json' in o.data)}))"""
_LISTEN = """() => { window.kernelErrors = []; const panel = jupyterapp.shell.currentWidget;
    panel.sessionContext.iopubMessage.connect((_, m) => {
        if (m.header.msg_type === 'error') window.kernelErrors.push(`${m.content.ename}: ${m.content.evalue}`); }) }"""
_STATE = """async box => {   // every picture, by its bytes and by its pixels, and what is written
    const pictures = [], blown = [];
    for (const image of box.querySelectorAll('img')) {
        try { await image.decode(); } catch { return null; }          // it is being replaced
        if (image.width > image.naturalWidth) blown.push(image.naturalWidth);
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        const canvas = new OffscreenCanvas(image.naturalWidth || 1, image.naturalHeight || 1);
        const pen = canvas.getContext('2d'); pen.drawImage(image, 0, 0);
        const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
        const digest = async d => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', d))).join();
        pictures.push([await digest(bytes), await digest(pixels)]);
    }
    return { pictures, text: box.innerText, blown }; }"""
_CONTROLS = """box => {   // every element that takes the keyboard, with its kind, its name and a way to find it again
    const kind = e => e.matches('.noUi-handle') ? 'slider' : e.matches('select[multiple]') ? 'list' :
        e.matches('select') ? 'choice' : e.matches('input[type=number]') ? 'number' :
        e.matches('input[type=checkbox]') ? 'checkbox' : e.matches('input[type=radio]') ? 'radio' :
        e.matches('.widget-toggle-buttons button') ? 'toggle' : e.matches('button.widget-toggle-button') ? 'checkbox' :
        e.matches('button') ? 'button' : e.matches('input, textarea') ? 'text' : null;
    let found = [...box.querySelectorAll('.noUi-handle, select, input, textarea, button')];
    found = found.filter(e => kind(e) && e.offsetParent !== null);
    return found.map((e, i) => { e.dataset.control = i;
        const label = [...(e.labels ?? [])].map(l => l.innerText).join(' ') || e.getAttribute('aria-label') || e.title
            || (e.matches('button') ? e.innerText : '');
        const row = e.closest('.widget-hbox, .lm-Panel');
        const beside = row && [...row.querySelectorAll('input[type=number], select')].flatMap(x => [...x.labels]);
        return { i, kind: kind(e), reachable: e.tabIndex >= 0, disabled: !!e.disabled,
                 cut: [...(e.labels ?? [])].some(l => l.scrollWidth > l.clientWidth),
                 name: label.trim() || (e.matches('.noUi-handle') && beside?.length === 1 ? beside[0].innerText : '') };
    }); }"""
_CHOSEN = "e => [...e.options].map((o, i) => o.selected ? i : -1).filter(i => i >= 0)"


class Lesson:
    """One notebook open in the browser."""

    def __init__(self, page, address: Callable[[str], str], name: str) -> None:
        self.page, self.address, self.report = page, address, Report(name)
        self.home: list[str] = []
        page.on("pageerror", lambda e: self.report.complaints.append(f"page error: {e}"))
        page.on("request", lambda r: LOCAL.match(r.url) or self.home.append(r.url))
        page.on("websocket", lambda s: LOCAL.match(s.url) or self.home.append(s.url))

    def run(self) -> None:
        """Open the notebook, wait until its kernel listens, and run all cells."""
        self.page.goto(self.address(f"doc/tree/{self.report.name}.ipynb"))
        wait(lambda: self._kernel() == ["connected", "idle"], 120, "no kernel came up")   # or the command is dropped
        self.page.evaluate(_LISTEN)
        self.page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        wait(self._finished, RUN, f"not all cells ran within {RUN * _pace:.0f} s", pause=0.3)
        self.page.wait_for_timeout(300)
        for cell in self.page.evaluate(_CELLS):
            self.report.complaints += [f"{cell['id']}: {e}" for e in cell["errors"]]
            if cell["count"] is None and not cell["empty"]:
                self.report.complaints.append(f"{cell['id']}: was not executed")

    def _kernel(self) -> list[str]:
        return self.page.evaluate("""() => { const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext
            ?.session?.kernel; return [kernel?.connectionStatus, kernel?.status]; }""")

    def _finished(self) -> bool:
        cells = self.page.evaluate(_CELLS)
        done = all(c["count"] is not None or c["empty"] for c in cells) or any(c["errors"] for c in cells)
        return done and self._kernel() == ["connected", "idle"]

    def use_every_control(self, shots: Path | None) -> None:
        """Move every control of every widget; complaints are collected."""
        cells = [c["id"] for c in self.page.evaluate(_CELLS) if c["widget"]]
        if not cells:
            self.report.complaints.append("shows no widget")
        for cell in cells:
            index = self.page.evaluate("id => jupyterapp.shell.currentWidget.content.widgets.findIndex("
                                       "c => c.model.id === id)", cell)
            box = self.page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-Cell-outputWrapper").first
            box.scroll_into_view_if_needed()
            Panel(self, cell, box).use()
            if shots:
                box.screenshot(path=shots / f"{cell}.png")

    def close(self) -> Report:
        """Collect what was heard meanwhile, and close the page."""
        heard = self.page.evaluate("() => window.kernelErrors ?? []")
        known = " ".join(self.report.complaints)
        self.report.complaints += [f"the kernel reports {e}" for e in dict.fromkeys(heard) if e not in known]
        self.report.complaints += [f"{url} left the machine" for url in dict.fromkeys(self.home)]
        self.page.close()
        for session in ask(self.address("api/sessions")):
            ask(self.address(f"api/sessions/{session['id']}"), "DELETE")
        return self.report


class Panel:
    """The output of one cell: controls, and pictures and text that follow them."""

    def __init__(self, lesson: Lesson, cell: str, box) -> None:
        self.page, self.report, self.cell, self.box = lesson.page, lesson.report, cell, box

    def use(self) -> None:
        """Move each control and back; one without effect may have one while another is moved (a box beside a tick)."""
        controls = self.box.evaluate(_CONTROLS)
        if controls and self._settle()["blown"]:
            self.report.complaints.append(f"{self.cell}: the figure is drawn larger than it is, and blurred")
        idle = []
        for control in controls:
            if not control["name"]:
                self.report.complaints.append(f"{self.cell}: control {control['i']} ({control['kind']}) has no name")
            if control["cut"]:
                self._complain(control, "its name is cut short")
            if not control["reachable"]:
                self.report.complaints.append(f"{self.cell}: {control['name']} cannot be reached by keyboard")
            if not control["disabled"] and not self._follows(control):
                idle.append(control)
        switches = [c for c in controls if c["kind"] in ("checkbox", "choice", "radio", "toggle")]
        for control in idle:
            nearest = sorted((s for s in switches if s is not control), key=lambda s: abs(s["i"] - control["i"]))
            if not any(self._follows_while(control, switch) for switch in nearest):
                self._complain(control, "the figure does not follow")

    def _follows_while(self, control: dict, switch: dict) -> bool:
        undo = self._press(switch)
        self._settle()
        followed = self._follows(control)
        undo()
        self._settle()
        return followed

    def _follows(self, control: dict) -> bool:
        """Whether the figure follows the control; a complaint if it then does not come back."""
        before = self._settle()
        began = time.monotonic()
        undo = self._press(control)
        patience = 2.0 if control["kind"] != "slider" else 4.0
        try:
            wait(lambda: self._changed(before), patience, "")
        except TimeoutError:
            undo()
            self._settle()
            return False
        seconds = time.monotonic() - began
        self._settle()
        undo()
        if control["kind"] not in ("button", "text"):
            try:
                wait(lambda: self._pictures() == before["pictures"], ANSWER if self._settle() else 0, "")
            except TimeoutError:
                self._complain(control, "the figure does not come back")
        self.report.moved.append(Moved(f"{self.cell}: {control['name']}", control["kind"], seconds))
        return True

    def _complain(self, control: dict, text: str) -> None:
        self.report.complaints.append(f"{self.cell}: {control['name'] or control['i']} ({control['kind']}): {text}")

    def _state(self) -> dict | None:
        return self.box.evaluate(_STATE)

    def _pictures(self) -> list | None:
        return (self._state() or {}).get("pictures")

    def _changed(self, before: dict) -> bool:
        now = self._state()
        if now is None:
            return False
        if not before["pictures"]:
            return now["text"] != before["text"]
        return all(a[0] != b[0] and a[1] != b[1] for a, b in zip(now["pictures"], before["pictures"], strict=True))

    def _settle(self) -> dict:
        """The state once nothing has changed for a while."""
        last, same = None, 0

        def at_rest() -> bool:
            nonlocal last, same
            now = self._state()
            same, last = (same + 1 if now is not None and now == last else 0), now
            return same >= 3
        wait(at_rest, ANSWER, f"{self.cell}: never comes to rest", pause=0.06)
        return last

    def _press(self, control: dict) -> Callable[[], None]:
        """Move a control by keyboard; returns what moves it back."""
        target = self.box.locator(f'[data-control="{control["i"]}"]')
        target.focus()
        if not target.evaluate("e => e === document.activeElement"):
            self._complain(control, "does not take the focus")
        keys = {"slider": ("ArrowLeft", "ArrowRight"), "number": ("ArrowDown", "ArrowUp"),
                "choice": ("Home", "End"), "radio": ("ArrowUp", "ArrowDown"), "checkbox": ("Space", "Space"),
                "toggle": ("Space", "Space"), "button": ("Enter", "")}.get(control["kind"])
        if control["kind"] == "text":
            return self._type(target)
        if control["kind"] == "list":
            return self._extend(target)
        there, back = keys[::-1] if not self._at_the_end(target, control["kind"]) else keys
        if control["kind"] == "toggle":
            others = target.locator("xpath=..").locator("button.mod-active")
            active = others.first.get_attribute("data-control") if others.count() else str(control["i"])
            self.page.keyboard.press("Space")
            return lambda: (self.box.locator(f'[data-control="{active}"]').focus(), self.page.keyboard.press("Space"))
        self.page.keyboard.press(there or "Enter")
        if control["kind"] == "number":
            self.page.keyboard.press("Enter")

        def undo() -> None:
            if not back or not there:
                return
            target.focus()
            self.page.keyboard.press(back)
            if control["kind"] == "number":
                self.page.keyboard.press("Enter")
        return undo

    @staticmethod
    def _at_the_end(target, kind: str) -> bool:
        if kind == "slider":
            return target.evaluate("e => e.getAttribute('aria-valuenow') === e.getAttribute('aria-valuemax')")
        if kind == "number":
            return target.evaluate("e => e.max !== '' && Number(e.value) >= Number(e.max)")
        if kind == "choice":
            return target.evaluate("e => e.selectedIndex === e.options.length - 1")
        return False

    def _extend(self, target) -> Callable[[], None]:
        """Another entry of a list with several."""
        before = target.evaluate(_CHOSEN)
        self.page.keyboard.press("End")
        if target.evaluate(_CHOSEN) == before:
            self.page.keyboard.press("Home")
        values = target.evaluate("(e, chosen) => chosen.map(i => e.options[i].value)", before)
        return lambda: target.select_option(values)

    def _type(self, target) -> Callable[[], None]:
        before = target.input_value()
        target.fill(before + "1")
        self.page.keyboard.press("Enter")

        def undo() -> None:
            target.fill(before)
            self.page.keyboard.press("Enter")
        return undo


# ------------------------------------------------------------------------------------------------------------- the run


def visit(context, address: Callable[[str], str], name: str, shots: Path | None = None) -> Report:
    """Run one notebook and use it; whatever stops that is a complaint."""
    lesson = Lesson(context.new_page(), address, name)
    try:
        lesson.run()
        lesson.use_every_control(shots)
    except Exception as error:      # playwright's own and ours: the report names the notebook
        lesson.report.complaints.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        if shots:
            lesson.page.screenshot(path=shots / f"{name}_failed.png")
    return lesson.close()


def main(numbers: Sequence[str]) -> int:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser or not importlib.util.find_spec("playwright"):
        missing = f"no browser ({', '.join(BROWSERS)})" if not browser else "playwright is not installed"
        print(f"SKIPPED, NOTHING WAS TESTED: {missing}; install chromium, then type: {task('browser')}")
        return SKIPPED
    from playwright.sync_api import sync_playwright

    global _pace
    train()
    _pace = measure_pace()
    print(f"what the notebooks use is trained; limits are {_pace:.1f} times those of a quick machine", flush=True)
    paths = with_widgets(numbers)
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        plant(folder / "sound.ipynb", [("sound", "panel(follow)"), ("kinds", _KINDS)])
        plant(folder / "planted.ipynb", list(PLANTED))
        for path in paths:
            shutil.copy(path, folder)
        address = stack.enter_context(jupyterlab(folder))
        context = stack.enter_context(sync_playwright()).chromium.launch_persistent_context(
            folder / ".browser", executable_path=browser, headless=True, args=FLAGS,
            viewport={"width": 1280, "height": 1000})
        stack.callback(context.close)
        report = visit(context, address, "sound")
        good = not report.complaints and len(report.moved) == 2 + 5
        if not good:
            print("the sound notebook is found fault with:", *report.complaints, sep="\n    ✗ ")
        said = visit(context, address, "planted").complaints
        missed = [c for c in PLANTED.values() if c not in said]
        print(f"planted defects: {len(PLANTED) - len(missed)} of {len(PLANTED)} found", *missed, sep="\n  missed: ",
              flush=True)
        good &= not missed
        moved = []
        for path in paths:
            began = time.monotonic()
            report = visit(context, address, path.stem, SHOTS)
            moved += report.moved
            if "_explorer(" in path.read_text() and not report.moved:
                report.complaints.append("no control was found")
            good &= not report.complaints
            slowest = max((m.seconds for m in report.moved), default=0)
            print(f"  {path.stem:44s} {len(report.moved):3d} controls moved and back, slowest {slowest:.2f} s, "
                  f"{time.monotonic() - began:.0f} s in all", *report.complaints, sep="\n    ✗ ", flush=True)
    print(f"{len(paths)} notebooks, {len(moved)} controls; pictures in {SHOTS}")
    return 0 if good else 1


if __name__ == "__main__":
    os.environ.update({"DASHKIT_PROFILE": "smoke", "DASHKIT_PROGRESS": "0", "PYTHONWARNINGS": "ignore"})
    os.environ.setdefault("DASHKIT_RUNS", str(BUILD / "test" / "runs"))
    sys.exit(main(sys.argv[1:]))

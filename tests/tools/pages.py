"""The site in a real browser: `python tests/tools/pages.py [FOLDER]` opens every page of a built site, from its files.

Every control of every explorer goes by keyboard from end to end and back; picture and words have to follow, and three
states have to show what the notebook's own explorer shows.  Predictions must be kept and drawn, hints come one at a
time, the search finds something, nothing leaves the folder, nothing is wider than a phone, and axe-core finds no
violation of WCAG 2.1 AA, in light and in dark.  Planted defects come first: a harness that finds none of them proves
nothing.  Needs chromium, playwright and axe; without them it says so and leaves with status 77.
"""

import contextlib
import html
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from browser import BROWSERS, FLAGS, SKIPPED
from PIL import Image, ImageChops

from dashkit.classroom.notebooks import notebook_paths
from dashkit.environment import task
from dashkit.publishing import lessons, states
from dashkit.storage.paths import BUILD, ROOT

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
PHONE, DESKTOP = {"width": 375, "height": 760}, {"width": 1280, "height": 900}
PATIENCE = 20.0                  # seconds until a picture must have followed
KEYS = {"slider": ("ArrowRight", "ArrowLeft"), "list": ("ArrowDown", "ArrowUp"), "tick": ("Space", "Space")}

_SHOWN = """box => { const image = box.querySelector('img'), readout = box.querySelector('.readout'); return {
    state: Number(box.dataset.state), file: image.src.split('/').pop(), there: image.complete && image.naturalWidth > 0,
    alt: image.alt, words: readout.innerText, live: readout.getAttribute('aria-live') }; }"""
_WIDE = """() => { const wide = document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth;
    return wide <= 1 ? '' : `${wide} pixels too wide`; }"""
_SLIDE = """e => { const section = e.closest('.slides section:not(.stack)');
    if (section) { const at = Reveal.getIndices(section); Reveal.slide(at.h, at.v); } }"""
_AXE = """async rules => { const found = await axe.run(document, { runOnly: rules, preload: false });
    return found.violations.flatMap(v => v.nodes.map(n => `${v.id}: ${n.target.join(' ')}`)); }"""


class Visit:
    """One page open in the browser, and what was found wrong with it."""

    def __init__(self, context, path: Path, counts: Counter, *, hash_: str = "") -> None:
        self.path, self.counts, self.complaints = path, counts, []
        self.page = context.new_page()
        self.page.on("pageerror", lambda e: self.say(f"page error: {str(e).splitlines()[0]}"))
        self.page.on("request", lambda r: re.match("file:|data:|blob:|about:", r.url) or self.say(f"asks for {r.url}"))
        self.page.on("requestfailed", lambda r: self.say(f"not there: {r.url.split('/')[-1]} {r.failure}"))
        self.page.goto(path.as_uri() + hash_)
        counts["pages"] += 1

    def say(self, text: str) -> None:
        if text not in self.complaints:
            self.complaints.append(text)

    def close(self) -> list[str]:
        self.page.close()
        return [f"{self.path.name}: {text}" for text in self.complaints]

    # ------------------------------------------------------------------------------------------------------ explorers

    def use_explorers(self) -> None:
        """Move every control of every explorer from end to end and back, and try its play button and its address."""
        for box in self.page.locator(".explorer").all():
            self.counts["explorers"] += 1
            box.evaluate(_SLIDE)
            kept = self.path.parent.parent / "explorers" / box.get_attribute("id") / "states.json"
            known = json.loads(kept.read_text(encoding="utf-8"))          # as built, whatever the page makes of it
            for k, control in enumerate(known["controls"]):
                self._move(box, known, k, control)
            if known["plays"]:
                self._play(box, known)
            self._address(box, known)

    def _where(self, box, known: dict) -> list[int]:
        """The indices that the controls themselves show."""
        return [int(e.is_checked()) if c["kind"] == "tick" else int(e.input_value())
                for c, e in zip(known["controls"], box.locator("[data-control]").all(), strict=True)]

    def _shows(self, box, known: dict, where: Sequence[int], what: str) -> dict:
        """What is shown once it is the state of `where`; complaints if it is not, or if the picture is not there."""
        state = 0
        for index, control in zip(where, known["controls"], strict=True):
            state = state * len(control["values"]) + index
        end = time.monotonic() + PATIENCE
        while (shown := box.evaluate(_SHOWN))["state"] != state and time.monotonic() < end:
            time.sleep(0.01)
        name = box.get_attribute("id")
        if shown["state"] != state or shown["file"] != f"{known['pictures'][state]}.webp":
            self.say(f"{name}: {what}: the figure does not follow")
        elif not shown["there"]:
            self.say(f"{name}: {what}: there is no picture")
        elif shown["words"].split() != re.sub("<[^>]*>", " ", html.unescape(known["texts"][state])).split():
            self.say(f"{name}: {what}: the words do not follow")
        self.counts["states"] += 1
        return shown

    def _move(self, box, known: dict, k: int, control: dict) -> None:
        target = box.locator(f'[data-control="{k}"]')
        name, (forth, back) = box.get_attribute("id"), KEYS[control["kind"]]
        self.counts["controls"] += 1
        target.focus()
        if not target.evaluate("e => e === document.activeElement && Boolean(e.labels[0]?.innerText.trim())"):
            self.say(f"{name}: {control['label']} has no label or takes no keys")
            return
        first = where = self._where(box, known)
        seen = [self._shows(box, known, where, control["label"])["file"]]
        last = len(control["values"]) - 1
        ticks = control["kind"] == "tick"
        turns = [1 - 2 * where[k], 2 * where[k] - 1] if ticks else [
            *[1] * (last - where[k]), *[-1] * last, *[1] * where[k]]
        for turn in turns:
            self.page.keyboard.press(forth if turn > 0 else back)
            where = [*where[:k], where[k] + turn, *where[k + 1:]]
            if self._where(box, known) != where:
                self.say(f"{name}: {control['label']} does not obey its keys")
                return
            seen.append(self._shows(box, known, where, control["label"])["file"])
        if len(set(seen)) == 1 and not self._matters_elsewhere(known, k):
            self.say(f"{name}: {control['label']}: no picture differs")
        if where != first or seen[-1] != seen[0]:
            self.say(f"{name}: {control['label']}: the figure does not come back")

    @staticmethod
    def _matters_elsewhere(known: dict, k: int) -> bool:
        """Whether a control changes the picture in some other state, as a scale does once its loss is ticked."""
        sizes = [len(c["values"]) for c in known["controls"]]
        strides = [math.prod(sizes[i + 1:]) for i in range(len(sizes))]
        return any(known["pictures"][s] != known["pictures"][s + strides[k]]
                   for s in range(len(known["pictures"])) if s // strides[k] % sizes[k] < sizes[k] - 1)

    def _play(self, box, known: dict) -> None:
        button, name = box.locator(".play"), box.get_attribute("id")
        before, k = box.evaluate(_SHOWN)["state"], [c["name"] for c in known["controls"]].index(known["plays"])
        stood = self._where(box, known)[k]
        button.focus()
        self.page.keyboard.press("Enter")
        with contextlib.suppress(Exception):
            self.page.wait_for_function("([e, s]) => Number(e.dataset.state) !== s", arg=[box.element_handle(), before],
                                        timeout=1000 * PATIENCE)
        if self._where(box, known)[k] == stood or button.get_attribute("aria-pressed") != "true":
            self.say(f"{name}: play does not play")
        self.page.keyboard.press("Enter")
        if button.get_attribute("aria-pressed") != "false" or box.evaluate(_SHOWN)["live"] != "polite":
            self.say(f"{name}: play does not stop")
        self._shows(box, known, self._where(box, known), "play")
        self.counts["plays"] += 1

    def _address(self, box, known: dict) -> None:
        """The address of a state opens that state, on a fresh page."""
        if self.page.locator(".reveal").count():
            return
        target, control = box.locator('[data-control="0"]'), known["controls"][0]
        target.focus()
        if control["kind"] == "tick":
            self.page.keyboard.press("Space")
        else:
            self.page.keyboard.press("End" if self._where(box, known)[0] == 0 else "Home")
        where, name = self._where(box, known), box.get_attribute("id")
        other = Visit(self.page.context, self.path, Counter(), hash_="#" + self.page.url.partition("#")[2])
        again = other.page.locator(f'[id="{name}"]')
        if "#" not in self.page.url or self._where(again, known) != where:
            self.say(f"{name}: the address does not keep the state")
        other.close()

    # ---------------------------------------------------------------------------------------- predictions and exercises

    def predict(self) -> None:
        """Each prediction is kept, told again, and drawn where a figure has a place for it."""
        self.page.evaluate("() => localStorage.clear()")             # what other pages have kept
        forms, given = self.page.locator("form.prediction").all(), {}
        for form in forms:
            form.evaluate(_SLIDE)
            name, field = form.get_attribute("data-name"), form.locator("input, select")
            if field.evaluate("e => e.tagName") == "SELECT":
                field.select_option(index=1)
            else:
                field.fill("0.25" if field.get_attribute("type") == "number" else "dash")
            given[name] = field.input_value()
            form.locator("button").focus()
            self.page.keyboard.press("Space")
            if not form.is_visible():
                self.say(f"a key that keeps the prediction {name} turns the slide")
            self.counts["predictions"] += 1
            places = [i for i in self.page.locator("img[data-guess]").all()
                      if json.loads(i.get_attribute("data-guess"))["name"] == name]
            for image in places:
                image.evaluate(_SLIDE)
                self.counts["guesses drawn"] += 1
                mark, place = image.locator("xpath=..").locator(".guess"), image.bounding_box()
                spot = mark.bounding_box() if mark.count() and given[name] in mark.inner_text() else {"x": -1, "y": -1}
                if not all(0 <= spot[k] - place[k] <= place[side] for k, side in (("x", "width"), ("y", "height"))):
                    self.say(f"the guess {name} is not drawn")
            for line in self.page.locator(f'.recalled[data-name="{name}"]').all():
                line.evaluate(_SLIDE)
                if not line.is_visible():
                    self.say(f"the prediction {name} is not told again")
        if forms:
            self.page.reload()
            for form in self.page.locator("form.prediction").all():
                if form.locator("input, select").input_value() != given[form.get_attribute("data-name")]:
                    self.say(f"the prediction {form.get_attribute('data-name')} is not kept")

    def open_hints(self) -> None:
        """Hints open by keyboard, one at a time, and end in the solution."""
        for box in self.page.locator(".exercise").all():
            self.counts["exercises"] += 1
            box.evaluate(_SLIDE)
            hints = box.locator("summary").all()
            for k, hint in enumerate(hints):
                if [h.is_visible() for h in hints] != [i <= k for i in range(len(hints))]:
                    self.say("hints do not come one at a time")
                hint.focus()
                self.page.keyboard.press("Space" if k % 2 else "Enter")       # neither may turn a slide
            if len(hints) != 4 or not box.locator("pre").is_visible():
                self.say("an exercise has no three hints and a solution")

    # ----------------------------------------------------------------------------------------------------------- looks

    def look(self, axe: str) -> None:
        """No violation of WCAG 2.1 AA, in light and dark or on every slide, and nothing wider than a phone."""
        self.page.evaluate(axe)
        slides = self.page.locator(".reveal .slides section:not(.stack)").all()
        for slide in slides:
            slide.evaluate(_SLIDE)
            self._axe("slide")
        for scheme in () if slides else ("light", "dark"):
            self.page.evaluate("s => { document.documentElement.dataset.theme = s; }", scheme)
            self.page.wait_for_timeout(400)                        # colours fade
            self._axe(scheme)
        if not slides:
            self.page.set_viewport_size(PHONE)
            if wide := self.page.evaluate(_WIDE):
                self.say(f"on a phone: {wide}")
            self.page.set_viewport_size(DESKTOP)

    def _axe(self, where: str) -> None:
        self.counts["axe runs"] += 1
        for found in self.page.evaluate(_AXE, RULES):
            self.say(f"axe ({where}): {found}")


def visit(context, path: Path, axe: str, counts: Counter) -> list[str]:
    """Everything that is wrong with one page."""
    page = Visit(context, path, counts)
    try:
        page.use_explorers()
        page.predict()
        page.open_hints()
        page.look(axe)
    except Exception as error:                    # playwright's own: the report names the page
        page.say(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return page.close()


def search(context, site: Path) -> list[str]:
    """The search finds a word of the pages, from files alone."""
    page = Visit(context, site / "search.html", Counter(), hash_="?q=guidance")
    with contextlib.suppress(Exception):
        page.page.wait_for_selector("#search-results li", timeout=1000 * PATIENCE)
    if not page.page.locator("#search-results li").count():
        page.say("the search finds nothing")
    return page.close()


def without_script(browser, path: Path) -> list[str]:
    """Without JavaScript the first picture of each explorer is there, and no control that would do nothing."""
    context = browser.new_context(java_script_enabled=False, viewport=DESKTOP)
    page = context.new_page()
    page.goto(path.as_uri())
    found = []
    for box in page.locator(".explorer").all():
        if not box.locator("img").is_visible() or box.locator(".knobs").is_visible():
            found.append(f"{path.name}: {box.get_attribute('id')}: not fit for a reader without JavaScript")
    context.close()
    return found


def touched(browser, path: Path) -> list[str]:
    """A finger moves a slider."""
    context = browser.new_context(has_touch=True, viewport=PHONE)
    page = context.new_page()
    page.goto(path.as_uri())
    slider = page.locator('.explorer input[type="range"]').first
    slider.scroll_into_view_if_needed()
    place, before = slider.bounding_box(), slider.input_value()
    for share in (0.1, 0.9):
        page.touchscreen.tap(place["x"] + share * place["width"], place["y"] + place["height"] / 2)
    found = [] if slider.input_value() != before else [f"{path.name}: a finger does not move the slider"]
    context.close()
    return found


# ------------------------------------------------------------------------------------------- as the notebooks show them


def compare(site: Path) -> int:
    """Hold three states of each explorer against the notebook's own, in a process a notebook; how many differ."""
    differ = 0
    for path in notebook_paths():
        kept = sorted((site.parent / "explorers").glob(f"{path.name[:2]}-*/states.json"))
        if kept:
            profile = json.loads(kept[0].read_text(encoding="utf-8"))["profile"]
            differ += subprocess.run([sys.executable, __file__, "--compare", str(path), str(site)], cwd=ROOT,
                                     env=os.environ | {"DASHKIT_PROFILE": profile, "MPLBACKEND": "agg"}).returncode != 0
    return differ


def differing(notebook: Path, site: Path) -> list[str]:
    """What differs between a page's explorers and the kernel's, whose controls are moved to three states."""
    found = []
    for name, explorer in states.explorers_of(notebook).items():
        kept = json.loads((site.parent / "explorers" / name / "states.json").read_text())
        all_values = list(itertools.product(*([v for _, v in g] for g in explorer.grid.values())))
        for k in (0, len(all_values) // 2, len(all_values) - 1):
            for control, value in zip(explorer.grid, all_values[k], strict=True):
                explorer.controls[control].value = value
            drawn = Image.open(io.BytesIO(explorer.image.value)).convert("RGB")
            shown = Image.open(site / "explorers" / name / f"{kept['pictures'][k]}.webp").convert("RGB")
            part = shown.crop((shown.width - drawn.width, 0, shown.width, shown.height))
            if part.size != drawn.size or ImageChops.difference(part, drawn).getbbox():
                found.append(f"{name}: state {k}: another picture than the kernel's")
            if kept["texts"][k] not in explorer.readout.value.replace(".ipynb#", ".html#"):
                found.append(f"{name}: state {k}: other words than the kernel's")
        print(f"  {name}: three states compared, {len(found)} differ")
    return found


# ---------------------------------------------------------------------------------------------------- planted defects

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Planted</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="_static/pages.css"></head>
<body><main><h1>Planted</h1>{body}</main><script src="_static/pages.js"></script></body></html>"""
_FORM = ('<form class="prediction" data-name="00.x" hidden><label for="p">Guess</label>'
         '<input type="number" step="any" id="p" autocomplete="off">'
         "<button>Keep</button><output></output></form>")
_GUESS = '{"name": "00.x", "along": "y", "values": [0, 1], "ends": [0.9, 0.1], "across": 0.5}'
_HINTS = "<details{open}><summary>First hint</summary>a<details><summary>Next hint</summary>b{rest}</details></details>"
_REST = "<details><summary>Next hint</summary>c<details><summary>Solution</summary><pre>d</pre></details></details>"
_EXERCISE = '<div class="exercise">' + _HINTS + "</div>"
PLANTED = {        # a page with a defect, as its body and what is changed in it, and what must be said of it
    "ignores": ("explorer", "[0, 1, 2, 3, 4, 5]", "[0, 0, 2, 2, 4, 4]", "the figure does not follow"),
    "silent": ("explorer", '"state 2", "state 3"', '"state 2", "state 2"', "the words do not follow"),
    "lost": ("explorer", '"folder": "explorers/x"', '"folder": "explorers/nowhere"', "there is no picture"),
    "nameless": ("explorer", 'for="x-a"', 'for="nothing"', "x: a has no label or takes no keys"),
    "stubborn": ("explorer", 'min="0" max="2"', 'min="0" max="1"', "does not obey its keys"),
    "mute": ("explorer", '"plays": "a"', '"plays": "b"', "play does not play"),
    "pale": ("text", "text", '<p style="color:#bbb;background:#fff">pale</p>', "axe (light): color-contrast"),
    "wide": ("text", "text", '<p style="width:900px">wide</p>', "on a phone:"),
    "home": ("text", "text", '<img alt="a" src="https://example.org/x.png">', "asks for https://example.org/x.png"),
    "broken": ("text", "text", "<script>nowhere()</script>", "page error: nowhere is not defined"),
    "forgetful": ("form", "<form", '<form onsubmit="event.stopImmediatePropagation(); return false"',
                  "the prediction 00.x is not kept"),
    "undrawn": ("form", '"ends": [0.9, 0.1]', '"ends": [5, 6]', "the guess 00.x is not drawn"),
    "spoilt": ("hints", "<details>", "<details open>", "hints do not come one at a time"),
    "short": ("hints", _REST, "", "an exercise has no three hints and a solution"),
}


def plant(folder: Path) -> Iterator[tuple[Path, str]]:
    """Write a sound page and one for each defect; yields them with what must be said, nothing of the sound one."""
    pages, kept_at = folder / "html", folder / "explorers" / "x"
    shutil.copytree(ROOT / "docs" / "site" / "static", pages / "_static")
    controls = [{"name": "a", "label": "a", "kind": "slider", "values": ["0", "1", "2"], "start": 1},
                {"name": "b", "label": "b", "kind": "tick", "values": ["no", "yes"], "start": 0}]
    kept = {"controls": controls, "plays": "a", "pictures": list(range(6)), "texts": [f"state {k}" for k in range(6)]}
    kept_at.mkdir(parents=True)
    (kept_at / "states.json").write_text(json.dumps(kept))
    for k in range(6):
        Image.new("RGB", (40, 30), (40 * k, 0, 0)).save(kept_at / f"{k}.webp", lossless=True)
    shutil.copytree(folder / "explorers", pages / "explorers")
    guess = ("<div class='figure-box'><img alt='a figure' width='200' src='explorers/x/0.webp' "
             f"data-guess='{_GUESS}'></div>")
    bodies = {"explorer": lessons.explorer(kept_at), "text": "<p>text</p>", "form": _FORM + guess,
              "hints": _EXERCISE.format(open="", rest=_REST)}
    for name, (body, old, new, said) in {"sound": ("", "", "", ""), **PLANTED}.items():
        page = pages / f"{name}.html"
        assert not body or old in bodies[body], name
        text = bodies[body].replace(old, new, 1) if body else "".join(bodies.values())
        page.write_text(_PAGE.format(body=text), encoding="utf-8")
        yield page, said


# ------------------------------------------------------------------------------------------------------------- the run


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--compare"]:
        found = differing(Path(arguments[1]), Path(arguments[2]))
        print(*found, sep="\n", end="\n" * bool(found))
        return 1 if found else 0
    site = Path(arguments[0] if arguments else BUILD / "site" / "html").resolve()
    if not (site / "index.html").is_file():
        print(f"there is no site in {site}; type: {task('site')}")
        return 1
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = [name for name in ("playwright", "axe_playwright_python") if not importlib.util.find_spec(name)]
    if not browser or missing:
        print("SKIPPED, NOTHING WAS TESTED: install", "chromium" if not browser else ", ".join(missing))
        return SKIPPED
    import axe_playwright_python
    from playwright.sync_api import sync_playwright

    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    complaints, counts = [], Counter()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, headless=True, args=FLAGS)
        context = started.new_context(viewport=DESKTOP)
        context.set_default_timeout(1000 * PATIENCE)
        missed = []
        for page, said in plant(Path(place)):
            found = visit(context, page, axe, Counter())
            if found and not said:
                complaints += found
            if said and not any(said in text for text in found):
                missed.append(page.stem)
        print(f"planted defects: {len(PLANTED) - len(missed)} of {len(PLANTED)} found", *missed, sep="\n  missed: ",
              flush=True)
        for page in sorted(site.glob("*.html")):
            found = visit(context, page, axe, counts)
            text = page.read_text(encoding="utf-8")
            if 'class="explorer"' in text and 'class="reveal"' not in text:        # slides are nothing without a script
                found += without_script(started, page)
            if found:
                print(f"  {page.name}", *found[:20], sep="\n    ✗ ", flush=True)
            complaints += found
        complaints += search(context, site) + touched(started, site / "index.html")
        started.close()
    differ = compare(site)
    print(", ".join(f"{n} {what}" for what, n in counts.items()))
    print(f"{len(complaints)} complaints, {differ} notebooks whose explorers differ from their pages'")
    return 1 if complaints or missed or differ or not counts["explorers"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

// What the pages of the site can do without a kernel: explorers, predictions, and guesses in figures.  No dependencies.
"use strict";

(() => {
  const slides = document.querySelector(".reveal");

  // Slides have keys of their own: what is pressed on a control inside them is for the control alone.
  slides?.querySelector(".slides").addEventListener("keydown", (event) => {
    const pressed = [" ", "Enter"].includes(event.key) && event.target.closest("summary, button, a");
    if (pressed || event.target.closest("input, select")) event.stopPropagation();
  });

  // ------------------------------------------------------------------------------------------------------ explorers

  // An explorer knows every state: state k has the picture `pictures[k]` and the words `texts[k]`; k counts the last
  // control fastest.  The address keeps what differs from the start, as #03-explorer.w2=1.
  class Explorer {
    constructor(box) {
      Object.assign(this, JSON.parse(box.querySelector("script").textContent), { box, id: box.id, timer: null });
      this.image = box.querySelector("img");
      this.readout = box.querySelector(".readout");
      this.inputs = [...box.querySelectorAll("[data-control]")];
      this.button = box.querySelector(".play");
      box.querySelector(".knobs").hidden = false;
      for (const input of this.inputs) {
        input.addEventListener("input", () => { this.stop(); this.show(); });
        input.addEventListener("change", () => this.keep());
        input.addEventListener("touchstart", (event) => event.stopPropagation(), { passive: true });
      }
      this.button?.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
      this.open();
    }

    get(k) { return this.inputs[k].type === "checkbox" ? Number(this.inputs[k].checked) : Number(this.inputs[k].value); }

    set(k, index) {
      if (this.inputs[k].type === "checkbox") this.inputs[k].checked = Boolean(index);
      else this.inputs[k].value = index;
    }

    show() {
      const state = this.controls.reduce((all, control, k) => all * control.values.length + this.get(k), 0);
      this.controls.forEach((control, k) => {
        const text = control.values[this.get(k)], beside = this.inputs[k].parentNode.querySelector(".value");
        if (beside) { beside.textContent = text; this.inputs[k].setAttribute("aria-valuetext", text); }
      });
      const now = this.controls.map((control, k) => `${control.label}: ${control.values[this.get(k)]}`).join(", ");
      const next = new Image();                          // shown once it is there, so that nothing flickers
      this.next = next;
      next.src = `${this.folder}/${this.pictures[state]}.webp`;
      next.decode().catch(() => null).then(() => {
        if (this.next !== next) return;
        this.image.src = next.src;
        this.image.alt = `Figure with ${now}`;
        this.box.dataset.state = state;
      });
      if (this.readout.innerHTML !== this.texts[state]) this.readout.innerHTML = this.texts[state];
    }

    play() {
      const k = this.controls.findIndex((control) => control.name === this.plays);
      const step = () => {
        this.set(k, (this.get(k) + 1) % this.controls[k].values.length);
        this.show();
      };
      this.readout.setAttribute("aria-live", "off");     // a voice could not follow
      this.press(true);
      step();
      this.timer = setInterval(step, 700);
    }

    stop() {
      if (!this.timer) return;
      clearInterval(this.timer);
      this.timer = null;
      this.readout.setAttribute("aria-live", "polite");
      this.press(false);
      this.keep();
    }

    press(on) {
      this.button.setAttribute("aria-pressed", on);
      this.button.textContent = on ? "Stop" : "Play";
    }

    keep() {
      if (slides) return;                                // whose address names the slide
      const given = new URLSearchParams(location.hash.slice(1).includes("=") ? location.hash.slice(1) : "");
      this.controls.forEach((control, k) => {
        const key = `${this.id}.${control.name}`;
        if (this.get(k) === control.start) given.delete(key);
        else given.set(key, control.values[this.get(k)]);
      });
      const hash = given.toString();
      try { history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search); } catch { /* too often */ }
    }

    open() {
      const given = new URLSearchParams(location.hash.slice(1));
      let asked = false;
      this.controls.forEach((control, k) => {
        const index = control.values.indexOf(given.get(`${this.id}.${control.name}`));
        asked ||= index >= 0;
        this.set(k, index >= 0 ? index : control.start);
      });
      this.show();
      if (asked) this.box.scrollIntoView({ block: "center" });
    }
  }

  const explorers = [...document.querySelectorAll(".explorer")].map((box) => new Explorer(box));
  addEventListener("hashchange", () => location.hash.includes("=") && explorers.forEach((explorer) => explorer.open()));

  // ---------------------------------------------------------------------------------------------------- predictions

  const key = (name) => `dashkit prediction ${name}`;

  function recall(name) { try { return localStorage.getItem(key(name)) ?? ""; } catch { return ""; } }

  function remember(name, value) {
    try {
      if (value) localStorage.setItem(key(name), value);
      else localStorage.removeItem(key(name));
      return true;
    } catch { return false; }                            // a browser that keeps nothing
  }

  // Draw a guess into its figure: the values of `guess.values` stand at equal steps between the places `guess.ends`.
  function mark(image, value) {
    const guess = JSON.parse(image.dataset.guess), last = guess.values.length - 1, rising = guess.values[last] > guess.values[0];
    image.parentNode.querySelector(".guess")?.remove();
    if (value === "" || !Number.isFinite(Number(value))) return;
    const past = (k) => (rising ? Number(value) >= guess.values[k] : Number(value) <= guess.values[k]);
    let k = 0;
    while (k < last - 1 && past(k + 1)) k += 1;
    const share = (Number(value) - guess.values[k]) / (guess.values[k + 1] - guess.values[k]);
    const place = Math.min(Math.max((k + share) / last, 0), 1);
    const along = 100 * (guess.ends[0] + place * (guess.ends[1] - guess.ends[0]));
    const across = guess.across === null ? 25 : 100 * guess.across;
    const dot = document.createElement("span");
    dot.className = "guess";
    dot.style.left = `${guess.along === "x" ? along : across}%`;
    dot.style.top = `${guess.along === "x" ? across : along}%`;
    dot.textContent = `your guess: ${value}`;
    image.parentNode.append(dot);
  }

  function tell(name, value) {
    for (const image of document.querySelectorAll("img[data-guess]"))
      if (JSON.parse(image.dataset.guess).name === name) mark(image, value);
    for (const line of document.querySelectorAll(".recalled"))
      if (line.dataset.name === name) { line.hidden = !value; line.textContent = `Your prediction: ${value}`; }
  }

  for (const form of document.querySelectorAll("form.prediction")) {
    const { name } = form.dataset, field = form.querySelector("input, select"), said = form.querySelector("output");
    form.hidden = false;
    field.value = recall(name);
    tell(name, field.value);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const kept = remember(name, field.value);
      said.textContent = !field.value ? "Forgotten." : kept ? "Kept in this browser. Read on." : "This browser keeps nothing; read on.";
      tell(name, field.value);
    });
  }
})();

"use strict";

/* What all charts share, and the controls that change it. */
class View {
  constructor(runs, overview) {
    Object.assign(this, { runs, overview, axis: "step", weight: 0, log: false, range: null, charts: [], theme: "light" });
    this.sizes = new ResizeObserver(() => this.charts.forEach((chart) => chart.resize()));
    this.seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
      const chart = this.charts.find((one) => one.element === target);
      if (isIntersecting && chart && !chart.seen) { chart.seen = true; chart.rebuild(); }
    }), { rootMargin: "300px" });
    this.sizes.observe(document.getElementById("charts"));
  }

  show() {
    this.seen.disconnect();
    this.charts.forEach((chart) => chart.plot?.destroy());
    this.charts = chartsOf(this.runs).map((measure) => new Chart(measure, this));
    const open = document.getElementById("more")?.open;
    const more = this.charts.filter((chart) => chart.measure.more).map((chart) => chart.element);
    replaceIn("charts", ...this.charts.filter((chart) => !chart.measure.more).map((chart) => chart.element),
      ...(more.length ? [make("details", { id: "more", ...(open ? { open: "" } : {}) }, make("summary", {}, `More measures (${more.length})`), make("div", { class: "charts" }, ...more))] : []));
    this.charts.forEach((chart) => this.seen.observe(chart.element));
    showTables(this.runs, this.overview);
  }

  redraw() { this.charts.forEach((chart) => chart.rebuild()); }

  zoom(range) {
    const [low, high] = wholeRange(this);
    const cut = range && [Math.max(range[0], low), Math.min(range[1], high)];
    this.range = cut && cut[1] - cut[0] > 1e-9 * (high - low) && (cut[0] > low || cut[1] < high) ? cut : null;
    document.getElementById("reset").disabled = this.range === null;
    this.charts.forEach((chart) => chart.refresh(false));
  }

  /* New rows are there; other measures may be. */
  grown(overview) {
    if (overview) this.overview = overview;
    const names = (charts) => charts.map((one) => one.names.join()).join(";");
    if (names(chartsOf(this.runs)) !== names(this.charts.map((chart) => chart.measure))) return this.show();
    this.charts.forEach((chart) => chart.refresh(true));
    showTables(this.runs, this.overview);
  }
}

/* A run as the charts take it: its columns, and what is marked on them. */
class ShownRun {
  constructor(facts, data) {
    Object.assign(this, facts, { data, shown: true });
    this.finish();
  }

  finish() {
    this.hasInitial = [...this.data.byName.keys()].some((name) => name.startsWith("eval/initial/"));
  }

  /* Where on an axis it was started again or healed: [{ x, kind, label, text }]. */
  marks(axis) {
    const steps = axisOf(this.data, "step"), xs = axisOf(this.data, axis);
    const at = (step) => { const place = placeOf(steps, step); return place < xs.length ? xs[place] : xs.at(-1); };
    const restarts = this.starts.filter((start) => start.number > 1 && start.step !== null).map((start) => ({ x: axis === "step" ? start.step : start.step ? at(start.step) : 0, kind: "restart", label: "restart", text: `restart after step ${start.step.toLocaleString("en")}: ${startOf(start)}` }));
    return [...restarts, ...this.events.map(({ step, kind, text }) => ({ x: axis === "step" ? step : at(step), kind, label: kind, text: `${kind}: ${text}` }))];
  }
}

function controlsOf(view) {
  const listen = (element, kind, act) => { element.addEventListener(kind, () => act(element)); return element; };
  const axes = Object.entries(AXES).map(([axis, title]) => {
    const input = listen(make("input", { type: "radio", name: "axis", value: axis, ...(axis === view.axis ? { checked: "" } : {}) }), "change", () => {
      view.axis = axis;
      view.range = null;
      document.getElementById("reset").disabled = true;
      view.redraw();
    });
    return make("label", {}, input, title);
  });
  const told = make("output", {}, "off");
  const smoothing = listen(make("input", { type: "range", min: "0", max: "100", value: "0", id: "smoothing" }), "input", ({ value }) => {
    view.weight = Number(value) === 0 ? 0 : 1 - 10 ** (-3 * Number(value) / 100);
    told.textContent = view.weight ? `about ${Math.round(1 / (1 - view.weight))} records` : "off";
    view.redraw();
  });
  const log = listen(make("input", { type: "checkbox", id: "log" }), "change", ({ checked }) => { view.log = checked; view.redraw(); });
  const reset = listen(make("button", { type: "button", id: "reset", disabled: "" }, "Reset zoom"), "click", () => view.zoom(null));
  const theme = listen(make("select", { id: "theme", "aria-label": "Theme" }, ...["auto", "light", "dark"].map((name) => make("option", { value: name }, name))), "change", ({ value }) => setTheme(view, value));
  const controls = [
    make("fieldset", {}, make("legend", {}, "Along"), ...axes),
    make("label", {}, "Smoothing", smoothing, told),
    make("label", {}, log, "Log scale"),
    reset,
    make("label", {}, "Theme", theme),
  ];
  if (view.runs.length > 1) {
    const boxes = view.runs.map((run, index) => {
      const box = listen(make("input", { type: "checkbox", checked: "" }), "change", ({ checked }) => { run.shown = checked; view.redraw(); });
      return make("label", {}, box, make("i", { class: "swatch", "data-run": index }), run.name);
    });
    controls.push(make("fieldset", {}, make("legend", {}, "Runs"), ...boxes));
  }
  return controls;
}

const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");

function setTheme(view, chosen) {
  view.theme = chosen === "auto" ? (prefersDark.matches ? "dark" : "light") : chosen;
  document.documentElement.dataset.theme = view.theme;
  document.querySelectorAll("[data-run]").forEach((swatch) => { swatch.style.backgroundColor = colorOf(view, Number(swatch.dataset.run)); });
  view.redraw();
}

async function start() {
  const began = performance.now();
  const { runs, overview, live } = JSON.parse(document.getElementById("data").textContent);
  const shown = await Promise.all(runs.map(async (facts) => new ShownRun(facts, await decodeColumns(facts.columns))));
  const view = new View(shown, overview);
  document.getElementById("title").textContent = shown.map((run) => run.name).join(", ");
  replaceIn("controls", ...controlsOf(view));
  setTheme(view, "auto");
  prefersDark.addEventListener("change", () => { if (document.getElementById("theme").value === "auto") setTheme(view, "auto"); });
  view.show();
  showSettings(shown);
  const thinned = shown.filter((run) => run.data.every > 1);
  if (thinned.length) document.getElementById("status").textContent = thinned.map((run) => `${run.name}: of long curves about one point in ${run.data.every} is shown, peaks among them`).join("; ");
  if (live) {
    document.getElementById("status").textContent = "live";
    follow(view, live);
  }
  window.page = view;
  requestAnimationFrame(() => { document.documentElement.dataset.ready = String(Math.round(performance.now() - began)); });
}

start().catch((error) => {
  document.getElementById("status").textContent = `The charts cannot be drawn here (${error.message}): this page needs a browser of 2023 or newer.`;
});

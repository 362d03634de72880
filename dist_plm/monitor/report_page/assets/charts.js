"use strict";

const COLORS = {
  light: ["#0b62c4", "#c8501e", "#1a8a5a", "#8a3ab9", "#9a6f00", "#c2185b", "#00757f", "#5d4037"],
  dark: ["#6cb4ff", "#ff9f6b", "#5fd3a0", "#cf9bf5", "#e6c14a", "#ff8ab5", "#5cd6e0", "#c9a99a"],
};
const AXES = { step: "step", tokens_seen: "tokens", seconds: "time in steps" };
/* Measures in their order on the page: [names, title, unit]. Others follow under their own names. */
const MEASURES = [
  ["loss", "Loss", "nats per token"],
  ["lr", "Learning rate", ""],
  ["grad_norm", "Gradient norm", "before clipping"],
  ["tokens_per_second", "Speed", "tokens/s"],
  ["mfu", "Model FLOPs utilisation", "share of peak"],
  ["memory_gib", "GPU memory", "GiB, highest so far"],
  ["step_seconds", "Time of a step", "s"],
  ["skipped", "Skipped updates", "since the last record"],
  ["skipped_share", "Skipped updates", "share of steps since the last record"],
  ["loss_scale", "Loss scale", ""],
];

/* The samples of the microbatch that had the largest loss: told beside it. */
const WORST_SAMPLES = ["worst/first_sample", "worst/last_sample"];

/* Charts that the runs have values for: [{ names, title, unit, more }], `more` for those that not every run has. */
function chartsOf(runs) {
  const present = new Set(runs.flatMap((run) => [...run.data.byName.keys()]));
  const told = new Set(["step", "tokens_seen", "samples_seen", "seconds", ...WORST_SAMPLES]);
  const charts = [];
  let more = false;
  const add = (names, title, unit) => { names.forEach((name) => told.add(name)); if (names.some((name) => present.has(name))) charts.push({ names, title, unit, more }); };
  add(["loss"], "Loss", "nats per token");
  for (const name of [...present].filter((one) => one.startsWith("eval/") && !one.startsWith("eval/initial/")))
    add([`eval/initial/${name.slice(5)}`, name], `Held-out ${name.slice(5).replaceAll("_", " ")}`, name === "eval/loss" ? "nats per token" : "");
  for (const name of [...present].filter((one) => one.startsWith("eval/initial/") && !told.has(one)))
    add([name], `Held-out ${name.slice(13).replaceAll("_", " ")}`, "before the first step");
  for (const name of [...present].filter((one) => one.startsWith("loss/"))) add([name], `Part of the loss: ${name.slice(5)}`, "");
  for (const [name, title, unit] of MEASURES.slice(1)) {
    const idle = name.startsWith("skipped") && !runs.some((run) => run.data.byName.get(name)?.values.some((value) => value > 0));
    if (idle) told.add(name); else add([name], title, unit);
  }
  for (const name of ["data", "forward", "backward", "communication", "optimizer"]) add([`step_parts/${name}`], `Time of a step: ${name}`, "s, mean of ranks");
  ["slow/rank", "replicas/differing", "passes/differing"].forEach((name) => told.add(name));
  add(["slow/ratio"], "Slowest rank", "times its peers");
  add(["worst/loss"], "Loss of the worst microbatch", "nats per token");
  more = true;
  for (const name of present) if (!told.has(name) && !name.startsWith("heal/")) add([name], name, "");
  return charts;
}

function shownNumber(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e15)) return value.toExponential(3);
  for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]])
    if (size >= unit) return `${Number((value / (letter === "k" ? 1e3 : unit)).toPrecision(5))}${letter}`;
  return String(Number(value.toPrecision(5)));
}

function shownTime(seconds) {
  const total = Math.round(seconds);
  if (total < 60) return `${Number(seconds.toPrecision(3))}s`;
  if (total < 3600) return `${Math.floor(total / 60)}m${String(total % 60).padStart(2, "0")}s`;
  if (total < 86400) return `${Math.floor(total / 3600)}h${String(Math.floor((total % 3600) / 60)).padStart(2, "0")}m`;
  return `${Math.floor(total / 86400)}d${String(Math.floor((total % 86400) / 3600)).padStart(2, "0")}h`;
}

const shownX = (axis, value) => (axis === "seconds" ? shownTime(value) : axis === "step" ? Math.round(value).toLocaleString("en") : shownNumber(value));

/* One chart of one measure, of all runs that are shown. `view` is shared by all charts. */
class Chart {
  constructor(measure, view) {
    Object.assign(this, { measure, view, plot: null, seen: false, cursor: null });
    this.readout = make("div", { class: "readout", "aria-live": "polite" });
    this.place = make("div", { class: "plot" });
    const unit = measure.unit ? [make("span", { class: "unit" }, ` (${measure.unit})`)] : [];
    this.element = make("div", { class: "chart", tabindex: "0", role: "group", "aria-label": `${measure.title}: arrow keys move along the curve, + and - zoom, 0 shows all`, "data-measure": measure.names.at(-1) },
      make("h2", {}, measure.title, ...unit), this.place, this.readout);
    this.element.addEventListener("keydown", (event) => this.pressed(event));
  }

  /* The curves of the runs that are shown, raw and smoothed; kept until the view or the data change. */
  prepare() {
    const { runs, axis, weight } = this.view;
    const most = new Map(runs.map((run) => [run, mostPoints(run.data)]));
    this.curves = runs.map((run, index) => ({ run, index })).filter(({ run }) => run.shown).map(({ run, index }) => {
      const curve = curveOf(run.data, axis, this.measure.names);
      const dense = curve.xs.length > most.get(run) / 2; // a few evaluations are as they are
      return { run, index, ...curve, smooth: weight > 0 && dense ? smoothed(curve.ys, weight) : null };
    }).filter((curve) => curve.xs.length);
    const odd = (curve) => curve.odd.slice(0, 50).map(([x, value]) => ({ x, kind: "rollback", label: value, text: value }));
    this.marks = this.curves.flatMap((curve) => [...curve.run.marks(axis), ...odd(curve)].map((mark) => ({ ...mark, index: curve.index }))).sort((a, b) => a.x - b.x);
  }

  /* Marks that the cursor is on. */
  near() {
    if (this.cursor === null || !this.plot) return [];
    const [low, high] = this.range(), reach = 5 * (high - low) / this.plot.over.clientWidth;
    return this.marks.filter(({ x }) => Math.abs(x - this.cursor) <= reach).slice(0, 4);
  }

  range() {
    if (this.view.range) return this.view.range;
    return wholeRange(this.view);
  }

  data() {
    const [low, high] = this.range();
    const buckets = Math.max(200, Math.round(this.place.clientWidth || 600));
    const isShown = (y) => Number.isFinite(y) && (!this.view.log || y > 0);
    const lines = [];
    for (const { xs, ys, smooth } of this.curves) {
      for (const values of smooth ? [ys, smooth] : [ys]) {
        const places = visible(xs, values, low, high, buckets);
        lines.push({ xs: places.map((place) => xs[place]), ys: places.map((place) => values[place]) });
      }
    }
    return merged(lines, isShown);
  }

  /* Draws anew, with other lines, axes or colours. */
  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.seen) return;
    this.prepare();
    this.plot = new uPlot(this.options(), this.data(), this.place);
    this.tell();
  }

  /* Draws other data or another stretch of the same lines. */
  refresh(changed) {
    if (!this.plot) return;
    const lines = () => this.curves.map((curve) => (curve.smooth ? 2 : 1)).join();
    const before = lines();
    if (changed) this.prepare();
    if (lines() !== before) return this.rebuild();
    this.plot.batch(() => {
      this.plot.setData(this.data(), false);
      const [min, max] = this.range();
      this.plot.setScale("x", { min, max });
    });
    this.tell();
  }

  resize() {
    if (this.plot && this.place.clientWidth !== this.plot.width)
      this.plot.setSize({ width: this.place.clientWidth, height: this.place.clientHeight });
  }

  options() {
    const { view } = this, style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const drawn = { stroke: color("--soft"), grid: { stroke: color("--grid"), width: 1 }, ticks: { stroke: color("--line"), width: 1, size: 4 }, font: "12px system-ui, sans-serif" };
    const series = this.curves.flatMap(({ index, smooth }) => {
      const stroke = colorOf(view, index), dash = index >= COLORS.light.length ? [6, 3] : undefined;
      const few = { show: (plot, _, first, last) => last - first < 40 };
      const raw = { stroke: smooth ? `${stroke}55` : stroke, width: smooth ? 1 : 1.5, dash, points: smooth ? { show: false } : { ...few, size: 5 } };
      return smooth ? [raw, { stroke, width: 2, dash, points: { show: false } }] : [raw];
    });
    const y = view.log ? { distr: 3 } : { range: (plot, low, high) => (low === high ? flatRange(low ?? 0) : uPlot.rangeNum(low, high, 0.08, false)) };
    return {
      width: this.place.clientWidth, height: this.place.clientHeight, legend: { show: false }, padding: [14, 26, 0, 0],
      scales: { x: { time: false, auto: false, range: () => this.range() }, y },
      axes: [
        { ...drawn, label: AXES[view.axis], labelSize: 18, labelFont: "12px system-ui, sans-serif", size: 32, space: 70, values: (plot, splits) => splits.map((value) => (value === null ? "" : shownX(view.axis, value))) },
        { ...drawn, size: 62, values: (plot, splits) => splits.map((value) => (value === null ? "" : shownNumber(value))) },
      ],
      series: [{}, ...series],
      cursor: {
        y: false, points: { size: 7 }, drag: { x: true, y: false, setScale: false, dist: 4 },
        sync: { key: "runs", setSeries: false, filters: { pub: (type) => type === "mousemove" } },
        bind: { dblclick: () => () => view.zoom(null) },
      },
      hooks: {
        setSelect: [(plot) => this.selected(plot)],
        setCursor: [(plot) => { this.cursor = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null; this.tell(); }],
        draw: [(plot) => this.drawMarks(plot, color)],
      },
    };
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.view.zoom(range);
  }

  /* Vertical lines where runs were started again, healed themselves, or had values that are not finite. */
  drawMarks(plot, color) {
    const { ctx, bbox } = plot, ratio = window.devicePixelRatio || 1;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    Object.assign(ctx, { textAlign: "left", textBaseline: "bottom" }); // uPlot leaves them as its axes need them
    let labelled = -Infinity;
    for (const { x, kind, label, index } of this.marks) {
      const [low, high] = this.range();
      if (x < low || x > high) continue;
      const at = Math.round(plot.valToPos(x, "x", true));
      const ofRun = kind === "restart" && this.view.runs.length > 1;
      ctx.strokeStyle = ctx.fillStyle = ofRun ? colorOf(this.view, index) : color(`--${kind}`);
      ctx.lineWidth = ratio;
      ctx.setLineDash(kind === "restart" ? [4 * ratio, 3 * ratio] : []);
      ctx.beginPath(); ctx.moveTo(at, bbox.top); ctx.lineTo(at, bbox.top + bbox.height); ctx.stroke();
      const width = ctx.measureText(label).width;
      const from = Math.min(Math.max(at - width / 2, bbox.left), bbox.left + bbox.width - width);
      if (from > labelled) { ctx.fillText(label, from, bbox.top - 3 * ratio); labelled = from + width + 6 * ratio; }
    }
    ctx.restore();
  }

  /* Says the values at the cursor, or the last ones. */
  tell() {
    const parts = [], { view } = this;
    for (const { run, index, xs, ys, smooth } of this.curves) {
      let place = lastUpTo(xs, this.range()[1]);
      if (this.cursor !== null) {
        place = Math.min(placeOf(xs, this.cursor), xs.length - 1);
        if (place > 0 && this.cursor - xs[place - 1] < xs[place] - this.cursor) place--;
      }
      const value = Number.isNaN(ys[place]) ? "not finite" : shownNumber(ys[place]);
      const text = [make("b", {}, value), ` at ${shownX(view.axis, xs[place])}`];
      if (smooth) text.push(` (smoothed ${shownNumber(smooth[place])})`);
      if (this.measure.names[0] === "worst/loss") text.push(samplesAt(run.data, view.axis, xs[place]));
      const name = view.runs.length > 1 ? [`${run.name} `] : [];
      parts.push(make("span", {}, make("i", { class: "swatch", color: colorOf(view, index) }), ...name, ...text));
    }
    for (const { text, index } of this.near()) parts.push(make("span", { class: "mark" }, ...(view.runs.length > 1 ? [`${view.runs[index].name} `] : []), text));
    this.readout.replaceChildren(...(parts.length ? parts : ["no value in the runs that are shown"]));
  }

  pressed(event) {
    if (!this.plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const [low, high] = this.range(), middle = this.cursor ?? (low + high) / 2;
    const around = (factor) => this.view.zoom([middle - (middle - low) * factor, middle + (high - middle) * factor]);
    const acts = { "+": () => around(0.5), "=": () => around(0.5), "-": () => around(2), 0: () => this.view.zoom(null), Escape: () => this.view.zoom(null), ArrowLeft: () => this.move(-1, event.shiftKey), ArrowRight: () => this.move(1, event.shiftKey) };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  /* Moves the cursor to the next record that can be told from this one, or by a tenth of the width. */
  move(sign, far) {
    const [low, high] = this.range(), xs = this.curves[0]?.xs;
    if (!xs?.length) return;
    const least = far ? (high - low) / 10 : (high - low) / this.place.clientWidth;
    const from = this.cursor ?? (sign > 0 ? low : high);
    const place = sign > 0 ? placeOf(xs, from + least) : placeOf(xs, from - least + 1e-9 * (high - low)) - 1;
    const x = Math.min(Math.max(xs[Math.min(Math.max(place, 0), xs.length - 1)], low), high);
    this.plot.setCursor({ left: this.plot.valToPos(x, "x"), top: 20 });
    this.cursor = x;
    this.tell();
  }
}

/* ", samples 8 to 15" of the worst microbatch of a step. */
function samplesAt(columns, axis, x) {
  const row = placeOf(axisOf(columns, axis), x);
  const [first, last] = WORST_SAMPLES.map((name) => valueAt(columns, name, row));
  return Number.isFinite(first) && Number.isFinite(last) ? `, samples ${first.toLocaleString("en")} to ${last.toLocaleString("en")}` : "";
}

const colorOf = (view, index) => COLORS[view.theme][index % COLORS.light.length];

/* About a curve that does not move. */
const flatRange = (y) => (y === 0 ? [-1, 1] : [y - Math.abs(y) / 10, y + Math.abs(y) / 10]);

/* From the first to the last x of all runs that are shown. */
function wholeRange(view) {
  const ends = view.runs.filter((run) => run.shown && run.data.rows).map((run) => axisOf(run.data, view.axis)).flatMap((xs) => [xs[0], xs.at(-1)]);
  const low = Math.min(...ends, view.runs.some((run) => run.hasInitial) ? 0 : Infinity), high = Math.max(...ends);
  if (!Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}

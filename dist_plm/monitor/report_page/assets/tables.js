"use strict";

/* An element with attributes and children; text is always text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "color") element.style.backgroundColor = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/* A table whose first row is its head and whose first column names the rows. */
function tableOf(rows) {
  const [head, ...body] = rows;
  return make("div", { class: "scroll", tabindex: "0" },
    make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((cell) => make("th", { scope: "col" }, cell)))),
      make("tbody", {}, ...body.map(([name, ...cells]) =>
        make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", {}, cell)))))));
}

function showTables(runs, overview) {
  const { summary, differing } = overview;
  if (summary.length)
    replaceIn("summary", make("h2", {}, "Summary"), tableOf(transposed(summary)));
  replaceIn("differing", ...(differing.length ? [make("h2", {}, "Settings that differ"), tableOf(differing)] : []));
  showEvents(runs);
  showMeasured(runs);
  showSamples(runs);
}

/* One row a run. */
const transposed = (rows) => rows[0].map((_, column) => rows.map((row) => row[column]));

function replaceIn(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

/* When and where a run was started. */
function startOf(start) {
  const where = [`on ${start.node}`, `${start.ranks} rank${start.ranks === "1" ? "" : "s"}`, start.job && `job ${start.job}`].filter(Boolean).join(", ");
  return `${start.time} ${where}`;
}

function showEvents(runs) {
  const several = runs.length > 1;
  const rows = [];
  for (const run of runs) {
    for (const start of run.starts) {
      const step = start.step === null ? "not known" : start.step.toLocaleString("en");
      rows.push([start.step ?? 0, [start.number === 1 ? "start" : "restart", step, startOf(start), run.name]]);
    }
    for (const event of run.events)
      rows.push([event.step, [event.kind, event.step.toLocaleString("en"), event.text, run.name]]);
    for (const [name, value, step, times] of oddOf(run))
      rows.push([step, [`${name} is ${value}`, step.toLocaleString("en"), times > 1 ? `and at ${times - 1} more` : "", run.name]]);
  }
  if (!rows.length) return replaceIn("events");
  const shown = rows.sort((a, b) => a[0] - b[0]).map(([, cells]) => (several ? cells : cells.slice(0, 3)));
  const head = ["what", "after step", "more", ...(several ? ["run"] : [])];
  replaceIn("events", make("h2", {}, "Starts and events"), tableOf([head, ...shown]));
}

/* What runs measured at intervals, in tables of their own. */
function showMeasured(runs) {
  const shown = runs.flatMap((run) => run.tables.map(({ title, rows }) =>
    make("details", {}, make("summary", {}, runs.length > 1 ? `${run.name}: ${title}` : title), tableOf(rows))));
  replaceIn("tables", ...(shown.length ? [make("h2", {}, "Measured at intervals"), ...shown] : []));
}

/* Values that are not finite, each kind once: [measure, value, first step, how often]. */
function oddOf(run) {
  const found = new Map();
  for (const [row, name, value] of run.data.odd) {
    const key = `${name} ${value}`;
    if (!found.has(key)) found.set(key, [name, value, axisOf(run.data, "step")[row], 0]);
    found.get(key)[3]++;
  }
  return [...found.values()];
}

function showSamples(runs) {
  const shown = runs.flatMap((run) => run.samples.map(({ title, rows, note }) => {
    const names = [...new Set(rows.flatMap(Object.keys))];
    const table = rows.length ? [tableOf([names, ...rows.map((row) => names.map((name) => row[name] ?? ""))])] : [];
    return make("details", { open: "" }, make("summary", {}, runs.length > 1 ? `${run.name}: ${title}` : title), ...table, ...(note ? [make("p", { class: "note" }, note)] : []));
  }));
  replaceIn("samples", ...(shown.length ? [make("h2", {}, "Samples"), ...shown] : []));
}

/* All settings with their values and origins, and a field to look for one. */
function showSettings(runs) {
  const names = [...new Set(runs.flatMap((run) => run.settings.map(([name]) => name)))];
  if (!names.length) return;
  const known = runs.map((run) => new Map(run.settings.map(([name, ...rest]) => [name, rest])));
  const rows = names.map((name) => [name, ...known.map((settings) => {
    const [value, origin] = settings.get(name) || ["-", ""];
    const cell = make("span", {}, value);
    if (origin) cell.append(make("span", { class: "origin" }, origin));
    return cell;
  })]);
  const table = tableOf([["setting", ...(runs.length > 1 ? runs.map((run) => run.name) : ["value and where it comes from"])], ...rows]);
  const search = make("input", { type: "search", placeholder: "find a setting", "aria-label": "Find a setting" });
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase();
    for (const row of table.querySelectorAll("tbody tr")) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  replaceIn("settings", make("details", { open: "" }, make("summary", {}, "Configuration"), make("div", { class: "above" }, search), table));
}

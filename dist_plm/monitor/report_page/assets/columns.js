"use strict";

/* Reads what packed_columns.py wrote: see there. byName: { rows, values } of each measure, whose rows are null where it has a
   value in each. */
async function decodeColumns(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const byName = new Map();
  let offset = 0;
  const together = (points, width) => {
    const values = new Uint8Array(points * width);
    for (let byte = 0; byte < width; byte++)
      for (let place = 0; place < points; place++) values[place * width + byte] = planes[offset++];
    return values.buffer;
  };
  const differences = (points) => {
    const values = new Float64Array(together(points, 8));
    for (let place = 1; place < points; place++) values[place] += values[place - 1];
    return values;
  };
  for (const { names, exact, points } of packed.groups) {
    const rows = points === packed.rows ? null : differences(points);
    names.forEach((name, place) => byName.set(name, { rows, values: place < exact ? differences(points) : new Float32Array(together(points, 4)) }));
  }
  return { rows: packed.rows, byName, odd: packed.odd, every: packed.every };
}

/* Adds the rows of `more` to those of `columns`. */
function appendColumns(columns, more) {
  const byName = new Map();
  for (const name of new Set([...columns.byName.keys(), ...more.byName.keys()])) {
    const parts = [columns, more].map((one) => one.byName.get(name) ?? { rows: one.rows ? [] : null, values: [] });
    const isExact = parts.some((part) => part.values instanceof Float64Array);
    const values = new (isExact ? Float64Array : Float32Array)(parts[0].values.length + parts[1].values.length);
    values.set(parts[0].values);
    values.set(parts[1].values, parts[0].values.length);
    const everywhere = parts.every((part) => part.rows === null);
    const rows = everywhere ? null : Float64Array.from({ length: values.length }, (_, place) => {
      const later = place - parts[0].values.length;
      return later < 0 ? rowAt(parts[0], place) : columns.rows + rowAt(parts[1], later);
    });
    byName.set(name, { rows, values });
  }
  const odd = [...columns.odd, ...more.odd.map(([row, name, value]) => [row + columns.rows, name, value])];
  return { rows: columns.rows + more.rows, byName, odd, every: columns.every };
}

/* The row of a place in a column. */
const rowAt = (column, place) => (column.rows === null ? place : column.rows[place]);

/* The steps, tokens or seconds of all rows. */
const axisOf = (columns, axis) => columns.byName.get(axis).values;

/* The value of a measure in a row; NaN where it has none. */
function valueAt(columns, name, row) {
  const column = columns.byName.get(name);
  if (!column) return NaN;
  const place = column.rows === null ? row : placeOf(column.rows, row);
  return place < column.values.length && rowAt(column, place) === row ? column.values[place] : NaN;
}

/* Points of the measure that has the most. */
const mostPoints = (columns) => Math.max(0, ...[...columns.byName].filter(([name]) => !(name in AXES)).map(([, { values }]) => values.length));

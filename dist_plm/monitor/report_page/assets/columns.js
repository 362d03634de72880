"use strict";

/* Reads what packed_columns.py wrote: see there. */
async function decodeColumns(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const byName = new Map();
  let offset = 0;
  packed.names.forEach((name, place) => {
    const exact = place < packed.exact;
    const width = exact ? 8 : 4;
    const together = new Uint8Array(packed.rows * width);
    for (let byte = 0; byte < width; byte++)
      for (let row = 0; row < packed.rows; row++) together[row * width + byte] = planes[offset++];
    const values = exact ? new Float64Array(together.buffer) : new Float32Array(together.buffer);
    if (exact) for (let row = 1; row < values.length; row++) values[row] += values[row - 1];
    byName.set(name, values);
  });
  return { rows: packed.rows, byName, odd: packed.odd, every: packed.every };
}

/* Adds the rows of `more` to those of `columns`. */
function appendColumns(columns, more) {
  const rows = columns.rows + more.rows;
  const byName = new Map();
  for (const name of new Set([...columns.byName.keys(), ...more.byName.keys()])) {
    const [first, second] = [columns.byName.get(name), more.byName.get(name)];
    const values = new ((first || second).constructor)(rows).fill(NaN);
    if (first) values.set(first, 0);
    if (second) values.set(second, columns.rows);
    byName.set(name, values);
  }
  const odd = [...columns.odd, ...more.odd.map(([row, name, value]) => [row + columns.rows, name, value])];
  return { rows, byName, odd, every: columns.every };
}

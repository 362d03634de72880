"use strict";

/* A run's curve of one measure: x and y where there is a value; y is NaN, a gap, where the run had one that is not finite. */
function curveOf(columns, axis, names) {
  const x = axisOf(columns, axis);
  const xs = [], ys = [], odd = [];
  for (const name of names) {
    const column = columns.byName.get(name);
    if (!column) continue;
    const { values } = column;
    if (name.startsWith("eval/initial/")) {
      const first = values.find(Number.isFinite);
      if (first !== undefined) { xs.push(0); ys.push(first); }
      continue;
    }
    const gaps = new Map(columns.odd.filter((one) => one[1] === name).map(([row, , value]) => [row, value]));
    values.forEach((value, place) => {
      const row = rowAt(column, place);
      xs.push(x[row]);
      ys.push(value);
      if (!Number.isFinite(value)) odd.push([x[row], gaps.get(row)]);
    });
  }
  return { xs, ys, odd };
}

/* Exponential moving average without the pull towards zero at the start (Kingma & Ba, 2015, section 3). */
function smoothed(ys, weight) {
  let mean = 0, share = 0;
  return ys.map((y) => {
    if (!Number.isFinite(y)) return y;
    mean = weight * mean + (1 - weight) * y;
    share = weight * share + (1 - weight);
    return mean / share;
  });
}

/* The first place whose value is not below `value`. */
function placeOf(xs, value) {
  let low = 0, high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

/* The last place whose value is not above `value`; the first where all are. */
function lastUpTo(xs, value) {
  let place = placeOf(xs, value);
  while (place < xs.length && xs[place] <= value) place++;
  return Math.max(place - 1, 0);
}

/* Places of the points nearest to the eye: of each of `buckets` stretches of x the lowest and the highest, and gaps. */
function visible(xs, ys, low, high, buckets) {
  const first = Math.max(placeOf(xs, low) - 1, 0);
  const last = Math.min(placeOf(xs, high) + 1, xs.length);
  const places = [];
  if (last - first <= 2 * buckets) {
    for (let place = first; place < last; place++) places.push(place);
    return places;
  }
  const width = (high - low) / buckets;
  let place = first;
  while (place < last) {
    const bucket = Math.floor((xs[place] - low) / width);
    let least = place, most = place, gap = -1;
    for (; place < last && Math.floor((xs[place] - low) / width) === bucket; place++) {
      const y = ys[place];
      if (Number.isNaN(y)) { gap = place; continue; }
      if (!(ys[least] <= y)) least = place;
      if (!(ys[most] >= y)) most = place;
    }
    places.push(...new Set([least, most, ...(gap >= 0 ? [gap] : [])].sort((a, b) => a - b)));
  }
  return places;
}

/* Lines over one common x, as uPlot takes them: undefined where a line has no point there, null where it has a gap. */
function merged(lines, isShown) {
  const xs = Float64Array.from(new Set(lines.flatMap((line) => line.xs))).sort();
  const places = new Map();
  xs.forEach((x, place) => places.set(x, place));
  const columns = lines.map((line) => {
    const ys = new Array(xs.length).fill(undefined);
    line.xs.forEach((x, i) => { ys[places.get(x)] = isShown(line.ys[i]) ? line.ys[i] : null; });
    return ys;
  });
  return [Array.from(xs), ...columns];
}

// The ops as columns of numbers, and the rows that they stand in.

const FUSED = 1; // flag of the first op of a pair that ran as one

/** Columns of all ops, in the order in which view/pack.py wrote them. */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer();
  const count = bytes.byteLength / 42;
  let offset = 0;
  const column = (type) => {
    const values = new type(bytes, offset, count);
    offset += count * type.BYTES_PER_ELEMENT;
    return values;
  };
  return {
    count,
    start: column(Float64Array),
    end: column(Float64Array),
    memory: column(Float32Array),
    peak: column(Float32Array),
    wait: column(Float32Array),
    mb: column(Uint32Array),
    stage: column(Uint32Array),
    seg: column(Uint32Array),
    kind: column(Uint8Array),
    flags: column(Uint8Array),
  };
}

/** Panels, their rows (one for each rank) and the columns; an op is its index in the columns. */
async function readModel(content, text) {
  const ops = await unpack(text);
  const letters = Object.keys(content.kinds);
  const rows = [];
  let next = 0;
  content.panels.forEach((panel, number) => {
    panel.number = number;
    panel.peak = Math.max(0, ...(panel.peaks || []));
    panel.ops.forEach((count, rank) => {
      const first = next;
      const stop = first + count;
      next = stop + panel.beside[rank];
      rows.push({ panel, rank, first, stop, besideStop: next });
    });
  });
  return { panels: content.panels, words: content.kinds, letters, ops, rows };
}

/** First op of [first, stop) that ends after the time; ops of a row are in order. */
function firstEndingAfter(ops, first, stop, time) {
  let low = first;
  let high = stop;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ops.end[middle] > time) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** First op of [first, stop) that starts at or after the time. */
function firstStartingFrom(ops, first, stop, time) {
  let low = first;
  let high = stop;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ops.start[middle] >= time) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The row that an op stands in. */
function rowOf(model, op) {
  return model.rows.find((row) => op >= row.first && op < row.besideStop);
}

/** What the rank holds before an op; NaN where nobody measured. */
function heldBefore(model, row, op) {
  return op > row.first ? model.ops.memory[op - 1] : Number.isNaN(model.ops.memory[op]) ? NaN : 0;
}

/** The idle time before an op (or, with op = row.stop, after the last): its parts by cause. */
function gapBefore(model, row, op) {
  const { ops } = model;
  const from = op > row.first ? ops.end[op - 1] : 0;
  if (op === row.stop) {
    let reduced = from;
    for (let each = row.stop; each < row.besideStop; each += 1) {
      reduced = Math.max(reduced, ops.end[each]);
    }
    const parts = [["in-flight", from, reduced], ["cool-down", reduced, row.panel.makespan]];
    return { from, to: row.panel.makespan, parts: parts.filter(isLong) };
  }
  const to = ops.start[op];
  if (op === row.first) return { from, to, parts: [["warm-up", from, to]].filter(isLong) };
  const flying = Math.min(ops.wait[op] || 0, Math.max(to - from, 0));
  const parts = [["imbalance", from, to - flying], ["in-flight", to - flying, to]];
  return { from, to, parts: parts.filter(isLong) };
}

/** Whether a stretch of idle time is more than rounding. */
function isLong([, from, to]) {
  return to - from > 1e-6 * Math.abs(to);
}

/** The same op in each other panel of the group: what was planned, or measured. */
function counterparts(model, op) {
  const { ops } = model;
  const own = rowOf(model, op);
  if (op >= own.stop) return [];
  const found = [];
  for (const row of model.rows) {
    if (row.panel === own.panel || row.panel.group !== own.panel.group) continue;
    for (let other = row.first; other < row.stop; other += 1) {
      if (ops.mb[other] === ops.mb[op] && ops.kind[other] === ops.kind[op]
          && ops.stage[other] === ops.stage[op] && ops.seg[other] === ops.seg[op]) {
        found.push(other);
      }
    }
  }
  return found;
}

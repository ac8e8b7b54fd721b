// One rank's ops. Few are drawn one by one; many as a column of shares for each pixel.

const DENSE = 0.6; // ops for each pixel above which a row is drawn as shares

/** Draw the ops of a lane that are in sight. */
function drawOps(scene, lane) {
  const { model, axis } = scene;
  const { row } = lane;
  const from = axis.time(row.panel, LEFT);
  const to = axis.time(row.panel, LEFT + axis.width);
  const first = firstEndingAfter(model.ops, row.first, row.stop, from);
  const stop = firstStartingFrom(model.ops, first, row.stop, to);
  if (stop - first > axis.width * DENSE) drawShares(scene, lane, first, stop);
  else {
    drawGaps(scene, lane, first, stop);
    drawBoxes(scene, lane, first, stop);
  }
}

function drawBoxes(scene, lane, first, stop) {
  const { model, axis, pen, colours, marks } = scene;
  const { ops } = model;
  const { panel } = lane.row;
  for (let op = first; op < stop; op += 1) {
    const x = axis.x(panel, ops.start[op]);
    const width = axis.x(panel, ops.end[op]) - x;
    const border = width > 4 ? 1 : 0;
    pen.globalAlpha = marks && !marks[op] ? 0.25 : 1;
    pen.fillStyle = colours.shades[ops.mb[op] % 2][ops.kind[op]];
    pen.fillRect(x, lane.y, Math.max(width - border, 0.5), lane.op);
    if (width > NARROW) drawName(scene, lane, op, x, width);
    if (marks && marks[op]) drawMark(scene, lane, x, width);
  }
  pen.globalAlpha = 1;
  for (let op = first; op < stop; op += 1) {
    if (ops.flags[op] & FUSED) drawFrame(scene, lane, op);
  }
}

/** The longest form of the op's name that fits, in the part of the op that is in sight. */
function drawName(scene, lane, op, x, width) {
  const { axis, pen, colours, letter } = scene;
  const left = Math.max(x, LEFT);
  const right = Math.min(x + width, LEFT + axis.width);
  const name = opNames(scene.model, op).find((text) => text.length * letter + 2 <= right - left);
  if (!name) return;
  pen.fillStyle = colours["on-op"];
  pen.fillText(name, (left + right) / 2, lane.y + lane.op / 2 + 0.5);
}

/** A frame around an op and the next, which ran as one. */
function drawFrame(scene, lane, op) {
  const { model, axis, pen, colours } = scene;
  const x = axis.x(lane.row.panel, model.ops.start[op]);
  const end = axis.x(lane.row.panel, model.ops.end[op + 1]);
  pen.strokeStyle = colours.text;
  pen.lineWidth = 1;
  pen.strokeRect(x + 0.5, lane.y + 0.5, Math.max(end - x - 2, 1), lane.op - 1);
}

function drawMark(scene, lane, x, width) {
  scene.pen.fillStyle = scene.colours.focus;
  scene.pen.fillRect(x, lane.y + lane.op - 3, Math.max(width - 1, 1), 3);
}

/** Idle time by cause, as a band through the middle of the row. */
function drawGaps(scene, lane, first, stop) {
  const { model, axis, pen, colours } = scene;
  const { row } = lane;
  const height = Math.max(Math.round(lane.op / 6), 3);
  for (let op = first; op <= Math.min(stop, row.stop); op += 1) {
    for (const [cause, from, to] of gapBefore(model, row, op).parts) {
      const x = Math.max(axis.x(row.panel, from), LEFT);
      pen.fillStyle = colours[cause];
      pen.fillRect(x, lane.y + (lane.op - height) / 2, axis.x(row.panel, to) - x - 1, height);
    }
  }
}

/** For each pixel, the share of its time that each kind takes, stacked; idle stays empty. */
function drawShares(scene, lane, first, stop) {
  const { model, axis, pen, colours, marks } = scene;
  const width = Math.ceil(axis.width);
  const shares = model.letters.map(() => new Float32Array(width));
  const marked = new Uint8Array(width);
  const { ops } = model;
  for (let op = first; op < stop; op += 1) {
    const from = Math.max(axis.x(lane.row.panel, ops.start[op]) - LEFT, 0);
    const to = Math.min(axis.x(lane.row.panel, ops.end[op]) - LEFT, width);
    const share = shares[ops.kind[op]];
    for (let pixel = Math.floor(from); pixel < to; pixel += 1) {
      share[pixel] += Math.min(to, pixel + 1) - Math.max(from, pixel);
    }
    if (marks && marks[op]) marked[Math.min(Math.floor(from), width - 1)] = 1;
  }
  pen.globalAlpha = marks ? 0.35 : 1;
  const base = new Float32Array(width).fill(lane.y + lane.op);
  shares.forEach((share, kind) => {
    pen.fillStyle = colours.shades[0][kind];
    let begin = 0;
    for (let pixel = 1; pixel <= width; pixel += 1) {
      const same = pixel < width && base[pixel] === base[begin]
        && Math.round(share[pixel] * lane.op) === Math.round(share[begin] * lane.op);
      if (same) continue;
      const height = Math.round(share[begin] * lane.op);
      if (height) pen.fillRect(LEFT + begin, base[begin] - height, pixel - begin, height);
      base.fill(base[begin] - height, begin, pixel);
      begin = pixel;
    }
  });
  pen.globalAlpha = 1;
  marked.forEach((mark, pixel) => mark && drawMark(scene, lane, LEFT + pixel, 2));
}

/** Gathers and reductions, which run beside the ops. */
function drawBeside(scene, lane) {
  const { model, axis, pen, colours } = scene;
  const { row } = lane;
  for (let op = row.stop; op < row.besideStop; op += 1) {
    const x = Math.max(axis.x(row.panel, model.ops.start[op]), LEFT);
    const end = Math.min(axis.x(row.panel, model.ops.end[op]), LEFT + axis.width);
    if (end <= x) continue;
    pen.fillStyle = colours.shades[0][model.ops.kind[op]];
    pen.fillRect(x, lane.besideY + 1, Math.max(end - x - 1, 0.5), lane.beside - 2);
  }
}

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
  const { axis, pen, colours, marks, ratio, top } = scene;
  const width = Math.round(axis.width * ratio);
  const height = Math.round(lane.op * ratio);
  const { shares, marked } = sumShares(scene, lane, first, stop, width);
  const image = pen.createImageData(width, height); // one call where rectangles were thousands
  const pixels = new Uint32Array(image.data.buffer);
  const ground = colourNumber(colours.back, colours.back, 0);
  const inks = colours.shades[0].map((each) => colourNumber(each, colours.back, marks ? 0.65 : 0));
  pixels.fill(ground);
  for (let pixel = 0; pixel < width; pixel += 1) {
    let row = height; // from the bottom upwards
    for (let kind = 0; kind < inks.length; kind += 1) {
      const end = Math.max(row - Math.round(shares[kind][pixel] * height), 0);
      for (; row > end; row -= 1) pixels[(row - 1) * width + pixel] = inks[kind];
    }
  }
  pen.putImageData(image, Math.round(LEFT * ratio), Math.round((lane.y - top) * ratio));
  marked.forEach((mark, pixel) => mark && drawMark(scene, lane, LEFT + pixel / ratio, 2));
}

/** Shares of each kind by pixel of the screen, and the pixels in which a match starts. */
function sumShares({ model, axis, marks, ratio }, lane, first, stop, width) {
  const shares = model.letters.map(() => new Float32Array(width));
  const marked = new Uint8Array(width);
  const { ops } = model;
  for (let op = first; op < stop; op += 1) {
    const from = Math.max((axis.x(lane.row.panel, ops.start[op]) - LEFT) * ratio, 0);
    const to = Math.min((axis.x(lane.row.panel, ops.end[op]) - LEFT) * ratio, width);
    const share = shares[ops.kind[op]];
    for (let pixel = Math.floor(from); pixel < to; pixel += 1) {
      share[pixel] += Math.min(to, pixel + 1) - Math.max(from, pixel);
    }
    if (marks && marks[op]) marked[Math.min(Math.floor(from), width - 1)] = 1;
  }
  return { shares, marked };
}

/** A colour `#rrggbb` with a share of another, as image data has it: red in the lowest byte. */
function colourNumber(colour, other, share) {
  const part = (text, at) => parseInt(text.slice(at, at + 2), 16);
  const blend = (at) => Math.round(part(colour, at) * (1 - share) + part(other, at) * share);
  return ((255 << 24) | (blend(5) << 16) | (blend(3) << 8) | blend(1)) >>> 0;
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

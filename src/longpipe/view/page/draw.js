// The whole drawing, and what lies over it: the pointer's line and the selected op.

/** Colours from the style sheet; odd micro-batches are lighter than even ones. */
function readColours(model, causes) {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["back", "text", "faint", "line", "focus", "on-op", "memory", "memory-edge"];
  const colours = Object.fromEntries([...names, ...causes].map((name) => [name, read(name)]));
  const even = model.letters.map(read);
  colours.shades = [even, even.map((colour) => lighter(colour, 0.35))];
  return colours;
}

/** A colour `#rrggbb` with a share of white. */
function lighter(colour, share) {
  const part = (at) => Math.round(parseInt(colour.slice(at, at + 2), 16) * (1 - share) + 255 * share);
  return `rgb(${part(1)} ${part(3)} ${part(5)})`;
}

/** Draw everything in sight; `scene.top` is how far the lanes are scrolled. */
function drawScene(scene) {
  const { pen, axis, colours, placed, top } = scene;
  const width = LEFT + axis.width + RIGHT;
  const seen = (from, to) => to > top + AXIS && from < top + scene.height;
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, width, scene.height);
  drawGrid(scene);
  pen.save();
  pen.translate(0, -top);
  for (const caption of placed.captions) {
    if (seen(caption.y, caption.y + CAPTION)) drawCaption(scene, caption);
  }
  for (const lane of placed.lanes) {
    if (seen(lane.y, lane.bottom)) drawLane(scene, lane);
  }
  pen.restore();
  drawTimes(scene);
}

function drawLane(scene, lane) {
  const { pen, axis } = scene;
  drawLabels(scene, lane);
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, lane.y, axis.width, lane.bottom - lane.y);
  pen.clip();
  pen.textAlign = "center";
  drawOps(scene, lane);
  if (lane.beside) drawBeside(scene, lane);
  if (lane.memory) drawMemory(scene, lane);
  pen.restore();
}

/** Left: the rank, and whose. Right: idle time by cause, and the peak. */
function drawLabels(scene, lane) {
  const { pen, colours, axis, causes } = scene;
  const { panel, rank } = lane.row;
  const middle = lane.y + lane.op / 2 + 0.5;
  pen.textAlign = "left";
  pen.fillStyle = colours.text;
  pen.fillText(`r${rank}`, 10, middle);
  pen.fillStyle = colours.faint;
  if (lane.paired) pen.fillText(panel.source, 36, middle, LEFT - 42);
  const idle = panel.idle[rank].map((part) => part / (panel.makespan || 1));
  const x = LEFT + axis.width + 10;
  const room = RIGHT - 20;
  pen.fillText(`idle ${shareText(idle.reduce((sum, part) => sum + part, 0))}`, x, middle - 2, room);
  let at = x;
  idle.forEach((part, cause) => {
    pen.fillStyle = colours[causes[cause]];
    pen.fillRect(at, lane.y + lane.op - 4, part * room, 4);
    at += part * room;
  });
  if (lane.memory > 10 && panel.peaks) {
    pen.fillStyle = colours.faint;
    const below = lane.memoryY + lane.memory / 2 + 1;
    pen.fillText(`peak ${memoryText(panel, panel.peaks[rank])}`, x, below, room);
  }
}

function drawCaption(scene, { panel, y }) {
  const { pen, colours, axis } = scene;
  const numbers = `makespan ${timeText(panel, panel.makespan)}, global bubble ${shareText(panel.bubble)}`;
  pen.textAlign = "left";
  pen.font = scene.bold;
  pen.fillStyle = colours.text;
  const words = `${panel.source} ${panel.name}`;
  pen.fillText(words, 10, y + CAPTION / 2);
  const end = 10 + pen.measureText(words).width;
  pen.font = scene.font;
  pen.fillStyle = colours.faint;
  const rest = [numbers, panel.note].filter(Boolean).join(" · ");
  pen.fillText(rest, end + 14, y + CAPTION / 2, Math.max(LEFT + axis.width + RIGHT - end - 24, 1));
}

/** Times at which the axis has a line: [x, text]. Aligned, they are shares of the makespan. */
function axisTimes({ axis, model }) {
  if (!model.panels.length) return [];
  const unit = axis.aligned ? axis.whole : 1;
  const step = roundStep((axis.to - axis.from) / Math.max(axis.width / 110, 1) / unit);
  const last = Math.floor(axis.to / unit / step + 1e-9);
  const count = Math.max(4, Math.ceil(Math.log10(last + 1)) + 1); // digits that tell lines apart
  const times = [];
  for (let number = Math.ceil(axis.from / unit / step - 1e-9); number <= last; number += 1) {
    const x = LEFT + ((number * step * unit - axis.from) / (axis.to - axis.from)) * axis.width;
    const text = axis.aligned
      ? `${digits(100 * number * step, count)}%`
      : timeText(model.panels[0], number * step, count);
    times.push([Math.round(x) + 0.5, text]);
  }
  return times;
}

function drawGrid(scene) {
  const { pen, colours } = scene;
  pen.fillStyle = colours.line;
  for (const [x] of axisTimes(scene)) pen.fillRect(x - 0.5, AXIS, 1, scene.height);
}

/** The axis, over whatever was scrolled up to it, with a bar for the part that is seen. */
function drawTimes(scene) {
  const { pen, colours, axis } = scene;
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, LEFT + axis.width + RIGHT, AXIS - 2);
  pen.fillStyle = colours.faint;
  pen.textAlign = "center";
  for (const [x, text] of axisTimes(scene)) pen.fillText(text, x, AXIS / 2 - 1);
  pen.fillStyle = colours.line;
  pen.fillRect(LEFT, AXIS - 4, axis.width, 2);
  pen.fillStyle = colours.faint;
  const share = (time) => (time / axis.whole) * axis.width;
  pen.fillRect(LEFT + share(axis.from), AXIS - 4, Math.max(share(axis.to - axis.from), 3), 2);
}

/** The line under the pointer, and frames about the op pointed at or selected and its likes. */
function drawOverlay(scene, pen, { x, op, selected }) {
  const { axis, colours, placed, top, model } = scene;
  pen.clearRect(0, 0, LEFT + axis.width + RIGHT, scene.height);
  if (x !== null && x >= LEFT && x <= LEFT + axis.width) {
    pen.fillStyle = colours.faint;
    pen.fillRect(Math.round(x), AXIS - 4, 1, scene.height);
  }
  const frame = (each, width, dash) => {
    const lane = placed.lanes.find(({ row }) => each >= row.first && each < row.besideStop);
    const start = Math.max(axis.x(lane.row.panel, model.ops.start[each]), LEFT - 2);
    const end = Math.min(axis.x(lane.row.panel, model.ops.end[each]), LEFT + axis.width + 2);
    if (end < LEFT || start > LEFT + axis.width || lane.bottom - top < AXIS) return;
    const beside = each >= lane.row.stop;
    pen.setLineDash(dash);
    pen.lineWidth = width;
    pen.strokeStyle = colours.focus;
    const [y, height] = beside ? [lane.besideY, lane.beside] : [lane.y, lane.op];
    pen.strokeRect(start - 1, y - top - 1, Math.max(end - start, 2) + 1, height + 2);
  };
  for (const each of new Set([op, selected])) {
    if (each === null) continue;
    for (const other of counterparts(model, each)) frame(other, 1.5, [4, 3]);
    frame(each, each === selected ? 3 : 1.5, []);
  }
}

// What a rank holds over time: a step for each op, or the most within each pixel.

/** Draw a lane's memory as an area below its ops, on the scale of its group. */
function drawMemory(scene, lane) {
  const { model, axis, pen, colours } = scene;
  const { row } = lane;
  const most = Math.max(
    ...model.panels.filter((panel) => panel.group === row.panel.group).map((panel) => panel.peak),
  );
  const bottom = lane.memoryY + lane.memory - 1;
  const scale = (lane.memory - 3) / most;
  const from = axis.time(row.panel, LEFT);
  const to = axis.time(row.panel, LEFT + axis.width);
  const first = firstEndingAfter(model.ops, row.first, row.stop, from);
  const stop = firstStartingFrom(model.ops, first, row.stop, to);
  const points = memorySteps(scene, row, first, stop);
  const clipped = (x) => Math.min(Math.max(x, LEFT), LEFT + axis.width);
  pen.beginPath();
  pen.moveTo(clipped(points[0]), bottom);
  for (let at = 0; at < points.length; at += 2) {
    pen.lineTo(clipped(points[at]), bottom - points[at + 1] * scale);
  }
  pen.lineTo(clipped(points[points.length - 2]), bottom);
  pen.closePath();
  pen.fillStyle = colours.memory;
  pen.fill();
  pen.strokeStyle = colours["memory-edge"];
  pen.lineWidth = 1;
  pen.stroke();
}

/** x and memory by turns: the peak during each op, then what stays; at most a few a pixel. */
function memorySteps(scene, row, first, stop) {
  const { model, axis } = scene;
  const { ops } = model;
  let held = first < row.stop ? heldBefore(model, row, first) || 0 : ops.memory[row.stop - 1] || 0;
  const points = [LEFT, held];
  let pixel = -1;
  let most = 0;
  let last = LEFT; // where the op before ended
  for (let op = first; op < stop; op += 1) {
    const x = axis.x(row.panel, ops.start[op]);
    const end = axis.x(row.panel, ops.end[op]);
    const during = Math.max(ops.peak[op] || 0, held);
    if (end - x > 1) {
      if (x - last > 0.5) points.push(x, held); // else nobody sees what was held between
      points.push(x, during, end, during);
      pixel = -1;
    } else if (Math.floor(x) === pixel) {
      most = Math.max(most, during);
      points[points.length - 1] = most;
    } else {
      pixel = Math.floor(x);
      most = during;
      points.push(x, points[points.length - 1], x, most);
    }
    held = ops.memory[op] || 0;
    const next = op + 1 < row.stop ? axis.x(row.panel, ops.start[op + 1]) : Infinity;
    if (next - end > 0.5) {
      points.push(end, points[points.length - 1], end, held);
      pixel = -1;
    }
    last = end;
  }
  points.push(LEFT + axis.width, held);
  return points;
}

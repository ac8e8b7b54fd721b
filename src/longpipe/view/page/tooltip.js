// What the page says about an op, or about idle time, near the pointer and to screen readers.

/** A title and [name, value] pairs. */
function describeOp(model, op) {
  const { ops } = model;
  const row = rowOf(model, op);
  const { panel } = row;
  const time = (value) => timeText(panel, value);
  const lines = [
    ["stage", `${ops.stage[op]}`],
    ["micro-batch", `${ops.mb[op]}`],
    ["segment", `${ops.seg[op]}`],
    ["start", timeText(panel, ops.start[op], 7)],
    ["end", timeText(panel, ops.end[op], 7)],
    ["time", time(ops.end[op] - ops.start[op])],
  ];
  if (op >= row.stop) lines.splice(1, 2); // of a stage's weights, not of a micro-batch
  else {
    lines.push(...describeGap(panel, gapBefore(model, row, op)));
    lines.push(
      ["memory before", memoryText(panel, heldBefore(model, row, op))],
      ["memory after", memoryText(panel, ops.memory[op])],
      ["memory peak", memoryText(panel, ops.peak[op])],
    );
    if (ops.flags[op] & FUSED) lines.push(["runs as one with", opText(model, op + 1)]);
    if (op > row.first && ops.flags[op - 1] & FUSED) {
      lines.push(["runs as one with", opText(model, op - 1)]);
    }
    lines.push(...describeOthers(model, op));
  }
  const word = model.words[model.letters[ops.kind[op]]];
  const name = op >= row.stop ? `stage ${ops.stage[op]}` : opText(model, op);
  return { title: `${name} ${word}`, place: `rank ${row.rank}, ${panel.source}`, lines };
}

function describeGap(panel, gap) {
  return gap.parts.map(([cause, from, to]) => [
    `idle before: ${causeText(cause)}`, timeText(panel, to - from),
  ]);
}

/** Its time where the group has the op a second time: planned beside measured. */
function describeOthers(model, op) {
  const { ops } = model;
  const own = ops.end[op] - ops.start[op];
  return counterparts(model, op).map((other) => {
    const { panel } = rowOf(model, other);
    const took = ops.end[other] - ops.start[other];
    const change = took > 0 ? 100 * (own / took - 1) : 0;
    const sign = change >= 0 ? "+" : "−";
    const versus = took > 0 ? ` (this: ${sign}${Math.abs(change).toFixed(1)}%)` : "";
    return [`time ${panel.source}`, timeText(panel, took) + versus];
  });
}

/** Idle time before the op (after the last: op = row.stop). */
function describeIdle(model, row, op) {
  const gap = gapBefore(model, row, op);
  const { panel } = row;
  const parts = gap.parts.map(([cause, from, to]) => [
    causeText(cause), timeText(panel, to - from),
  ]);
  const lines = [
    ["start", timeText(panel, gap.from, 7)],
    ["end", timeText(panel, gap.to, 7)],
    ["time", timeText(panel, gap.to - gap.from)],
    ...parts,
  ];
  if (op < row.stop) lines.push(["then", opText(model, op)]);
  return { title: "idle", place: `rank ${row.rank}, ${panel.source}`, lines };
}

/** Fill the tooltip and put it beside the point, inside the window. */
function showTooltip(element, about, x, y) {
  const title = document.createElement("b");
  title.textContent = about.title;
  const place = document.createElement("span");
  place.textContent = about.place;
  const list = document.createElement("dl");
  for (const [name, value] of about.lines) {
    const term = document.createElement("dt");
    term.textContent = name;
    const detail = document.createElement("dd");
    detail.textContent = value;
    list.append(term, detail);
  }
  element.replaceChildren(title, place, list);
  element.hidden = false;
  const { width, height } = element.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  element.style.left = `${Math.max(left, 4)}px`;
  element.style.top = `${Math.max(Math.min(y + 16, innerHeight - height - 4), 4)}px`;
}

/** The same in a sentence, for the live region. */
function spoken(about) {
  const lines = about.lines.map(([name, value]) => `${name} ${value}`);
  return `${about.title}, ${about.place}: ${lines.join(", ")}`;
}

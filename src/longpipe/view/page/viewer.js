// The viewer: what is shown, what is pointed at, and what each command does.

class Viewer {
  constructor(model, content) {
    this.model = model;
    this.causes = Object.keys(content.causes);
    this.axis = new Axis(model.panels);
    this.axis.aligned = content.align === "makespan";
    this.byRank = true;
    this.stage = document.getElementById("stage");
    this.spacer = document.getElementById("spacer");
    this.canvas = document.getElementById("drawing");
    this.over = document.getElementById("overlay");
    this.tooltip = document.getElementById("tooltip");
    this.live = document.getElementById("live");
    this.hits = document.getElementById("hits");
    this.selected = null;
    this.pointer = { x: null, op: null };
    this.search = null;
    this.match = -1;
    this.redraws = 0; // of the drawing, for whoever measures
    this.restyle();
    this.place();
  }

  /** Read the colours anew. */
  restyle() {
    this.colours = readColours(this.model, this.causes);
    this.draw();
  }

  /** Lay the lanes out anew. */
  place() {
    this.placed = placeLanes(this.model, this.byRank);
    this.stage.style.height = `${this.placed.height + 2}px`; // the style sheet has the most
    this.resize();
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    this.width = this.stage.clientWidth;
    this.height = this.stage.clientHeight;
    this.axis.width = Math.max(this.width - LEFT - RIGHT, 50);
    this.spacer.style.height = `${this.placed.height}px`;
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.round(this.width * ratio);
      canvas.height = Math.round(this.height * ratio);
      canvas.style.width = `${this.width}px`;
      canvas.style.height = `${this.height}px`;
      canvas.getContext("2d").scale(ratio, ratio);
    }
    this.over.style.marginTop = `${-this.height}px`; // both stand at the same place
    this.draw();
  }

  /** Draw before the next frame, once however often it is asked for. */
  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.drawNow();
    });
  }

  drawNow() {
    drawScene(this.scene());
    this.redraws += 1;
    this.drawOver();
  }

  drawOver() {
    const pen = this.over.getContext("2d");
    drawOverlay(this.scene(), pen, { ...this.pointer, selected: this.selected });
  }

  scene() {
    const pen = this.canvas.getContext("2d");
    const { model, axis, colours, placed, causes, height } = this;
    const font = "12px system-ui, sans-serif";
    const bold = `600 ${font}`;
    pen.font = font;
    pen.textBaseline = "middle";
    const top = this.stage.scrollTop;
    const marks = this.search && this.search.marks;
    const letter = pen.measureText("0").width;
    const ratio = devicePixelRatio || 1;
    return {
      pen, model, axis, colours, placed, causes, height, font, bold, top, marks, letter, ratio,
    };
  }

  // --- what is where

  /** The lane and the op (or the gap before an op) at a place of the stage; null: neither. */
  at(x, y) {
    if (y < AXIS || x < LEFT || x > LEFT + this.axis.width) return null;
    const below = y + this.stage.scrollTop;
    const lane = this.placed.lanes.find((each) => below >= each.y && below < each.bottom);
    if (!lane) return null;
    const { ops } = this.model;
    const { row } = lane;
    const time = this.axis.time(row.panel, x);
    if (below >= lane.besideY && below < lane.memoryY) {
      for (let op = row.stop; op < row.besideStop; op += 1) {
        if (ops.start[op] <= time && time < ops.end[op]) return { lane, op, gap: null };
      }
      return null;
    }
    if (time > row.panel.makespan) return null;
    const next = firstEndingAfter(ops, row.first, row.stop, time);
    const inside = next < row.stop && ops.start[next] <= time;
    return { lane, op: inside ? next : null, gap: inside ? null : next };
  }

  /** Where an op is drawn, from the top left of the stage: [x, y, width, height]. */
  rectangle(op) {
    const lane = this.laneOf(op);
    const { panel } = lane.row;
    const x = this.axis.x(panel, this.model.ops.start[op]);
    const width = this.axis.x(panel, this.model.ops.end[op]) - x;
    return [x, lane.y - this.stage.scrollTop, width, lane.op];
  }

  textOf(op) {
    return opText(this.model, op);
  }

  laneOf(op) {
    return this.placed.lanes.find(({ row }) => op >= row.first && op < row.besideStop);
  }

  point(x, y) {
    const found = this.at(x, y);
    this.pointer = { x, op: found ? found.op : null };
    this.drawOver();
    if (!found) {
      this.tooltip.hidden = true;
      return;
    }
    const { lane, op, gap } = found;
    const about = op === null
      ? describeIdle(this.model, lane.row, gap) : describeOp(this.model, op);
    const box = this.stage.getBoundingClientRect();
    showTooltip(this.tooltip, about, box.left + x, box.top + y);
  }

  leave() {
    this.pointer = { x: null, op: null };
    this.tooltip.hidden = true;
    this.drawOver();
  }

  // --- commands

  /** Select an op: in sight, framed, described. */
  select(op) {
    this.selected = op;
    if (op === null) {
      this.leave();
      return;
    }
    const { ops } = this.model;
    const lane = this.laneOf(op);
    this.axis.reveal(lane.row.panel, ops.start[op], ops.end[op]);
    const { scrollTop } = this.stage;
    if (lane.y - AXIS < scrollTop) this.stage.scrollTop = lane.y - AXIS - 8;
    else if (lane.bottom > scrollTop + this.height) {
      this.stage.scrollTop = lane.bottom - this.height + 8;
    }
    this.pointer = { x: null, op: null };
    this.draw();
    const about = describeOp(this.model, op);
    const box = this.stage.getBoundingClientRect();
    const [x, y, width, height] = this.rectangle(op);
    showTooltip(this.tooltip, about, box.left + x + width / 2, box.top + y + height);
    this.live.textContent = spoken(about);
  }

  /** The next or previous op of the row; the first op in sight where none is selected. */
  step(by) {
    if (this.selected === null) {
      this.selectSomething();
      return;
    }
    const { row } = this.laneOf(this.selected);
    const wanted = Math.min(this.selected, row.stop - 1) + by;
    this.select(Math.min(Math.max(wanted, row.first), row.stop - 1));
  }

  /** The op of a row above or below that runs at the time of the selected one. */
  stepRow(by) {
    if (this.selected === null) {
      this.selectSomething();
      return;
    }
    const { ops } = this.model;
    const lanes = this.placed.lanes.filter(({ row }) => row.stop > row.first);
    const own = this.laneOf(this.selected);
    const other = lanes[lanes.indexOf(own) + by];
    if (!other) return;
    const middle = (ops.start[this.selected] + ops.end[this.selected]) / 2;
    const time = (middle * this.axis.factor(own.row.panel)) / this.axis.factor(other.row.panel);
    const op = firstEndingAfter(ops, other.row.first, other.row.stop, time);
    this.select(Math.min(op, other.row.stop - 1));
  }

  /** First or last op of the row. */
  stepToEnd(last) {
    if (this.selected === null) this.selectSomething();
    if (this.selected === null) return;
    const { row } = this.laneOf(this.selected);
    this.select(last ? row.stop - 1 : row.first);
  }

  selectSomething() {
    const { ops } = this.model;
    const lane = this.placed.lanes.find(
      ({ row, bottom }) => row.stop > row.first && bottom > this.stage.scrollTop + AXIS,
    );
    if (!lane) return;
    const { row } = lane;
    const op = firstEndingAfter(ops, row.first, row.stop, this.axis.time(row.panel, LEFT));
    this.select(Math.min(op, row.stop - 1));
  }

  /** Zoom about a place, else about the selected op if it is in sight, else about the middle. */
  zoom(factor, x) {
    this.tooltip.hidden = true;
    let about = x;
    if (about === undefined && this.selected !== null) {
      const [left, , width] = this.rectangle(this.selected);
      const middle = left + width / 2;
      if (middle >= LEFT && middle <= LEFT + this.axis.width) about = middle;
    }
    this.axis.zoom(factor, about);
    this.draw();
  }

  zoomToSelected() {
    if (this.selected === null) return;
    const { ops } = this.model;
    const factor = this.axis.factor(this.laneOf(this.selected).row.panel);
    const start = ops.start[this.selected] * factor;
    const span = Math.max((ops.end[this.selected] * factor - start) * 8, this.axis.whole * 1e-7);
    this.axis.show(start - (span * 7) / 16, Math.min(span, this.axis.whole));
    this.select(this.selected);
  }

  pan(pixels) {
    this.tooltip.hidden = true;
    this.axis.pan(pixels);
    this.draw();
  }

  fit() {
    this.tooltip.hidden = true;
    this.axis.fit();
    this.draw();
  }

  setAligned(aligned) {
    this.axis.aligned = aligned;
    this.fit();
  }

  setByRank(byRank) {
    this.byRank = byRank;
    this.place();
  }

  /** Mark what passes the search; nothing typed: end it. */
  find(text) {
    this.match = -1;
    this.search = null;
    const test = text.trim() ? parseSearch(this.model, text) : undefined;
    if (test) this.search = findOps(this.model, test);
    if (test === null) this.hits.textContent = "not understood: try 2F3.1 or stage:2";
    else if (this.search) this.hits.textContent = `${this.search.found.length} found`;
    else this.hits.textContent = "";
    this.draw();
  }

  /** Go to the next match, or the one before. */
  next(by) {
    if (!this.search || !this.search.found.length) return;
    const { found } = this.search;
    const from = this.match < 0 && by < 0 ? 0 : this.match;
    this.match = (from + by + found.length) % found.length;
    this.hits.textContent = `${this.match + 1} of ${found.length}`;
    this.select(found[this.match]);
  }
}

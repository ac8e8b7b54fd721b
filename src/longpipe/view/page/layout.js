// Where things stand: lanes from top to bottom, and time from left to right.

const LEFT = 104; // names of the ranks
const RIGHT = 124; // idle time and peak
const AXIS = 26;
const CAPTION = 26;
const NARROW = 9; // a letter of a name in CSS pixels, with its margin

/** Heights of a rank's parts; many ranks are drawn flatter. */
function heights(count) {
  if (count <= 10) return { op: 28, beside: 7, memory: 26, gap: 9 };
  if (count <= 24) return { op: 22, beside: 6, memory: 18, gap: 6 };
  return { op: 16, beside: 5, memory: 11, gap: 5 };
}

/**
 * Lanes of all rows with their place, and captions above panels. By rank: the panels of a group
 * interleaved, so that a rank's plan stands right above what was measured.
 */
function placeLanes(model, byRank) {
  const size = heights(model.rows.length);
  const lanes = [];
  const captions = [];
  let y = AXIS;
  const add = (row, gap, paired) => {
    const beside = row.besideStop > row.stop ? size.beside : 0;
    const memory = row.panel.peak > 0 ? size.memory : 0;
    const lane = { row, paired, y, op: size.op, besideY: y + size.op, beside, memory };
    lane.memoryY = lane.besideY + beside;
    lane.bottom = lane.memoryY + memory;
    lanes.push(lane);
    y = lane.bottom + gap;
  };
  for (const panels of byRank ? groups(model) : model.panels.map((panel) => [panel])) {
    for (const panel of panels) {
      captions.push({ panel, y });
      y += CAPTION - (panel === panels[panels.length - 1] ? 0 : 6);
    }
    const ranks = Math.max(0, ...panels.map((panel) => panel.ops.length));
    for (let rank = 0; rank < ranks; rank += 1) {
      const rows = model.rows.filter((row) => panels.includes(row.panel) && row.rank === rank);
      rows.forEach((row, place) => {
        add(row, place < rows.length - 1 ? 2 : size.gap, panels.length > 1);
      });
      if (panels.length > 1) y += size.gap;
    }
    y += 8;
  }
  return { lanes, captions, height: y };
}

/** Panels by group, in order. */
function groups(model) {
  const found = new Map();
  for (const panel of model.panels) {
    if (!found.has(panel.group)) found.set(panel.group, []);
    found.get(panel.group).push(panel);
  }
  return [...found.values()];
}

/** The stretch of time that is seen, and the way from times to pixels. */
class Axis {
  constructor(panels) {
    this.whole = Math.max(0, ...panels.map((panel) => panel.makespan)) || 1;
    this.aligned = false;
    this.width = 1;
    this.fit();
  }

  fit() {
    this.from = 0;
    this.to = this.whole;
  }

  /** What a panel's times are multiplied with: aligned, every makespan fills the width. */
  factor(panel) {
    return this.aligned && panel.makespan > 0 ? this.whole / panel.makespan : 1;
  }

  x(panel, time) {
    return LEFT + ((time * this.factor(panel) - this.from) / (this.to - this.from)) * this.width;
  }

  time(panel, x) {
    const shared = this.from + ((x - LEFT) / this.width) * (this.to - this.from);
    return shared / this.factor(panel);
  }

  /** Zoom about a pixel; factors below 1 go nearer. Neither beyond the whole nor to nothing. */
  zoom(factor, x = LEFT + this.width / 2) {
    const share = Math.min(Math.max((x - LEFT) / this.width, 0), 1);
    const span = this.to - this.from;
    const wanted = Math.min(Math.max(span * factor, this.whole * 1e-7), this.whole);
    this.show(this.from + share * (span - wanted), wanted);
  }

  pan(pixels) {
    const span = this.to - this.from;
    this.show(this.from + (pixels / this.width) * span, span);
  }

  show(from, span) {
    this.from = Math.min(Math.max(from, 0), this.whole - span);
    this.to = this.from + span;
  }

  /** Bring a stretch of a panel's time into sight, near enough to read where it was a speck. */
  reveal(panel, start, end) {
    const factor = this.factor(panel);
    const [first, last] = [start * factor, end * factor];
    let span = this.to - this.from;
    const least = (Math.max(last - first, this.whole * 1e-7) / 36) * this.width;
    if (span > least * 6) span = Math.min(least, this.whole);
    if (span === this.to - this.from && first >= this.from && last <= this.to) return;
    this.show((first + last) / 2 - span / 2, span);
  }
}

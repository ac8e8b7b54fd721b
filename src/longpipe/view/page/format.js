// Numbers and names for people.

function digits(value, count = 4) {
  return Number(value.toPrecision(count)).toString();
}

/** With the largest of the units that the number has at least one of. */
function scaled(value, units, count) {
  const found = units.find(([, size]) => Math.abs(value) >= size);
  const [unit, size] = found || (value ? units[units.length - 1] : units.find((each) => each[1] === 1));
  return digits(value / size, count) + unit;
}

const PLAIN = [["G", 1e10], ["M", 1e7], ["k", 1e4]];
const SECONDS = [[" s", 1], [" ms", 1e-3], [" µs", 1e-6]];
const BYTES = [[" GB", 1e9], [" MB", 1e6], [" kB", 1e3], [" B", 1]];

/** A number without a unit: large ones in thousands, millions or billions. */
function plain(value, count) {
  const found = PLAIN.find(([, size]) => Math.abs(value) >= size);
  return found ? digits(value / (found[1] / 10), count) + found[0] : digits(value, count);
}

function timeText(panel, value, count) {
  return panel.seconds ? scaled(value, SECONDS, count) : plain(value, count);
}

function memoryText(panel, value) {
  if (Number.isNaN(value)) return "not known";
  return panel.seconds ? scaled(value, BYTES) : plain(value);
}

function shareText(value) {
  return `${(100 * value).toFixed(1)}%`;
}

/** The op's text form, `2F3.1`. */
function opText(model, op) {
  const { ops } = model;
  const tail = ops.seg[op] ? `.${ops.seg[op]}` : "";
  return `${ops.stage[op]}${model.letters[ops.kind[op]]}${ops.mb[op]}${tail}`;
}

/** Forms of its name from long to short: each has the kind's letter. */
function opNames(model, op) {
  const { ops } = model;
  const letter = model.letters[ops.kind[op]];
  const tail = ops.seg[op] ? `.${ops.seg[op]}` : "";
  return [`${ops.stage[op]}${letter}${ops.mb[op]}${tail}`, `${letter}${ops.mb[op]}${tail}`, letter];
}

/** The smallest of 1, 2, 5 times a power of ten that is at least so much. */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999);
}

/** A cause of idle time as the tables have it. */
function causeText(cause) {
  return cause.replace("in-", "in "); // warm-up and cool-down keep their dash
}

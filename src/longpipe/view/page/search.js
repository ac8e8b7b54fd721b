// Search: an op's text form or a part of it, and filters.

const OP_FORM = /^(\d*)(F|B|I|W|R)?(\d*)(?:\.(\d+))?$/i;
const FILTERS = {
  kind: "kind", stage: "stage", mb: "mb", microbatch: "mb", seg: "seg", segment: "seg", rank: "rank",
};

/** A test (row, op) => boolean for what somebody typed; null where it is not understood. */
function parseSearch(model, text) {
  const tests = text.trim().split(/\s+/).map((term) => parseTerm(model, term));
  if (tests.includes(null)) return null;
  return (row, op) => tests.every((test) => test(row, op));
}

function parseTerm(model, term) {
  const [name, value] = term.split(/[:=]/);
  if (value !== undefined) return parseFilter(model, FILTERS[name.toLowerCase()], value);
  const found = OP_FORM.exec(term);
  if (!found || !found[2]) return null;
  const [, stage, letter, mb, seg] = found;
  const { ops } = model;
  const kind = model.letters.indexOf(letter.toUpperCase());
  return (row, op) => ops.kind[op] === kind
    && (!stage || ops.stage[op] === Number(stage))
    && (!mb || ops.mb[op] === Number(mb))
    && (!seg || ops.seg[op] === Number(seg));
}

function parseFilter(model, field, value) {
  const { ops } = model;
  if (field === "kind") {
    const kind = model.letters.indexOf(value.toUpperCase());
    return kind < 0 ? null : (row, op) => ops.kind[op] === kind;
  }
  if (!field || !/^\d+$/.test(value)) return null;
  const wanted = Number(value);
  if (field === "rank") return (row) => row.rank === wanted;
  return (row, op) => ops[field][op] === wanted;
}

/** Compute ops that pass, in order of time, and a mark for each op. */
function findOps(model, test) {
  const marks = new Uint8Array(model.ops.count);
  const found = [];
  for (const row of model.rows) {
    for (let op = row.first; op < row.stop; op += 1) {
      if (test(row, op)) {
        marks[op] = 1;
        found.push(op);
      }
    }
  }
  found.sort((one, other) => model.ops.start[one] - model.ops.start[other] || one - other);
  return { marks, found };
}

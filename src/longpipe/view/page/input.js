// Pointer, wheel, keys and buttons; last of the scripts, so it starts the page.

const STEP = 0.8; // of a zoom by key or button

/** What each key does while the timeline has the focus. */
function keyCommands(viewer) {
  return {
    ArrowRight: (event) => (event.shiftKey ? viewer.pan(viewer.axis.width / 8) : viewer.step(1)),
    ArrowLeft: (event) => (event.shiftKey ? viewer.pan(-viewer.axis.width / 8) : viewer.step(-1)),
    ArrowUp: () => viewer.stepRow(-1),
    ArrowDown: () => viewer.stepRow(1),
    Home: () => viewer.stepToEnd(false),
    End: () => viewer.stepToEnd(true),
    PageUp: () => viewer.stage.scrollBy(0, 60 - viewer.height),
    PageDown: () => viewer.stage.scrollBy(0, viewer.height - 60),
    "+": () => viewer.zoom(STEP),
    "=": () => viewer.zoom(STEP),
    "-": () => viewer.zoom(1 / STEP),
    0: () => viewer.fit(),
    Enter: () => viewer.zoomToSelected(),
    Escape: () => viewer.select(null),
    n: () => viewer.next(1),
    p: () => viewer.next(-1),
    a: () => document.getElementById("align").click(),
    r: () => document.getElementById("by-rank").click(),
    t: () => document.getElementById("theme").click(),
  };
}

function listenToKeys(viewer) {
  const commands = keyCommands(viewer);
  viewer.stage.addEventListener("keydown", (event) => {
    const command = commands[event.key];
    if (!command || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    command(event);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") document.getElementById("search").focus();
    else if (event.key === "?") document.getElementById("help").showModal();
    else return;
    event.preventDefault();
  });
  viewer.stage.addEventListener("blur", () => {
    viewer.tooltip.hidden = true;
  });
}

/** Drag pans, both ways; the wheel zooms over the ops and scrolls over the names. */
function listenToPointer(viewer) {
  const { stage } = viewer;
  let held = null;
  let moved = false;
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  stage.addEventListener("pointerdown", (event) => {
    const [x] = place(event);
    if (event.button !== 0 || x > stage.clientWidth) return; // the scroll bar is not ours
    held = [event.clientX, event.clientY];
    moved = false;
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held) {
      viewer.point(...place(event));
      return;
    }
    const [x, y] = held;
    if (!moved && Math.hypot(event.clientX - x, event.clientY - y) < 4) return;
    moved = true;
    stage.scrollTop += y - event.clientY;
    viewer.pan(x - event.clientX);
    held = [event.clientX, event.clientY];
  });
  stage.addEventListener("pointerup", (event) => {
    if (held && !moved) {
      const found = viewer.at(...place(event));
      viewer.selected = found ? found.op : null;
      viewer.point(...place(event));
    }
    held = null;
  });
  stage.addEventListener("pointercancel", () => {
    held = null;
  });
  stage.addEventListener("pointerleave", () => viewer.leave());
  stage.addEventListener("dblclick", () => viewer.zoomToSelected());
  stage.addEventListener("wheel", (event) => onWheel(viewer, event, place(event)[0]), {
    passive: false,
  });
  stage.addEventListener("scroll", () => viewer.draw());
}

function onWheel(viewer, event, x) {
  const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
  const sideways = event.shiftKey ? event.deltaY + event.deltaX : event.deltaX;
  if (x < LEFT && !event.ctrlKey && !event.shiftKey) return; // over the names: scroll
  event.preventDefault();
  if (event.shiftKey || Math.abs(sideways) > Math.abs(event.deltaY)) viewer.pan(sideways * unit);
  else viewer.zoom(Math.exp(event.deltaY * unit * 0.002), x);
}

function listenToButtons(viewer) {
  const on = (id, action) => document.getElementById(id).addEventListener("click", action);
  on("zoom-in", () => viewer.zoom(STEP));
  on("zoom-out", () => viewer.zoom(1 / STEP));
  on("fit", () => viewer.fit());
  on("next", () => viewer.next(1));
  on("previous", () => viewer.next(-1));
  on("ask", () => document.getElementById("help").showModal());
  on("theme", () => toggleTheme(viewer));
  toggle("align", viewer.axis.aligned, (pressed) => viewer.setAligned(pressed));
  toggle("by-rank", viewer.byRank, (pressed) => viewer.setByRank(pressed));
  const { panels } = viewer.model;
  document.getElementById("align").hidden = panels.length < 2;
  document.getElementById("by-rank").hidden = groups(viewer.model).length === panels.length;
}

/** A button that stays pressed. */
function toggle(id, pressed, action) {
  const button = document.getElementById(id);
  button.setAttribute("aria-pressed", pressed);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", now);
    action(now);
  });
}

function toggleTheme(viewer) {
  const { dataset } = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  dataset.theme = (dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  viewer.restyle();
}

function listenToSearch(viewer) {
  const field = document.getElementById("search");
  field.addEventListener("input", () => viewer.find(field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") viewer.next(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
      field.value = "";
      viewer.find("");
      viewer.stage.focus();
    }
  });
}

const content = JSON.parse(document.getElementById("content").textContent);
const model = await readModel(content, document.getElementById("ops").textContent);
const viewer = new Viewer(model, content);
listenToKeys(viewer);
listenToPointer(viewer);
listenToButtons(viewer);
listenToSearch(viewer);
new ResizeObserver(() => viewer.resize()).observe(viewer.stage);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => viewer.restyle());
window.viewer = viewer; // for the console, and for tests
document.documentElement.dataset.ready = "true";

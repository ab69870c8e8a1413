"use strict";
// The page of samunet's annotation. Voxels of the page are NiiVue's, which grow to the right, front and top; those of the
// server are the file's. `grid` knows the way between them.

const $ = (id) => document.getElementById(id);
const TOOLS = { move: ["Move", "m"], point: ["Point", "p"], box: ["Box", "b"], scribble: ["Scribble", "s"], lasso: ["Lasso", "l"], paint: ["Draw", "d"], erase: ["Erase", "e"] };
const LINES = ["box", "scribble", "lasso", "paint", "erase"];
const SIDES = ["sagittal", "coronal", "axial"];
let nv, state = {}, grid = null, tool = "point", object = 1, waiting = Promise.resolve(), busy = 0;
let opening = false; // another case: nothing is done to the one that is still shown
let stroke = null; // of the mouse that is down: {axis, plane, path of page voxels, marks of canvas places, outside}
let plane = { axis: 2, place: 0 }; // that was clicked last: axis of the page, and index along it

async function ask(verb, body, of) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json", "x-case": encodeURIComponent(of ?? "") }, body: JSON.stringify(body) };
  const response = await fetch(verb, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// One request after the other, in the order of the clicks; each is meant for the case that is shown when it is made.
function call(verb, body = {}) {
  const of = state.case;
  const run = async () => {
    say("", false);
    try {
      const answer = await ask(verb, body, of);
      if (answer.labels) await put(answer.labels);
      show(answer.state || answer);
      if (answer.object) object = answer.object;
      say(answer.note || "", false);
      return answer;
    } catch (error) {
      say(error.message || String(error), true);
      return null;
    } finally {
      work(-1);
      list();
    }
  };
  work(1);
  waiting = waiting.then(run);
  return waiting;
}

function work(change) {
  busy += change;
  $("view").classList.toggle("busy", busy > 0);
  document.body.dataset.busy = busy;
}

function say(text, error) {
  $("note").textContent = text;
  $("note").classList.toggle("error", error);
}

async function unpacked(block) {
  const bytes = Uint8Array.from(atob(block.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return block.dtype === "uint16" ? new Uint16Array(buffer) : new Uint8Array(buffer);
}

// How voxels of the file lie in NiiVue's drawing, which is stored with x to the right, y to the front, z to the top.
function gridOf(image) {
  const order = Array.from(image.permRAS).map((axis) => Math.abs(axis) - 1); // of each page axis, the file's
  const flip = Array.from(image.permRAS).map((axis) => axis < 0);
  const size = Array.from(image.dimsRAS).slice(1, 4);
  const strides = [1, size[0], size[0] * size[1]];
  const step = [0, 0, 0];
  let first = 0;
  for (let side = 0; side < 3; side++) {
    step[order[side]] = flip[side] ? -strides[side] : strides[side];
    if (flip[side]) first += strides[side] * (size[side] - 1);
  }
  const turned = (voxel) => voxel.map((index, side) => (flip[side] ? size[side] - 1 - index : index));
  return {
    size, order, step, first,
    file: (page) => { const file = [0, 0, 0]; turned(page).forEach((index, side) => { file[order[side]] = index; }); return file; },
    page: (file) => turned(order.map((axis) => file[axis])),
  };
}

// Draw a block of labels that the server sent; labels above 255 are drawn by their place in the list.
async function put(block) {
  const values = await unpacked(block), place = new Map(state.objects?.map((thing, index) => [thing.value, index + 1]));
  const [[z0, z1], [y0, y1], [x0, x1]] = block.box;
  let at = 0;
  for (let z = z0; z < z1; z++)
    for (let y = y0; y < y1; y++) {
      let to = grid.first + z * grid.step[2] + y * grid.step[1] + x0 * grid.step[0];
      for (let x = x0; x < x1; x++, to += grid.step[0]) {
        const value = values[at++];
        nv.drawBitmap[to] = value && (place.get(value) ?? 255);
      }
    }
  nv.refreshDrawing(true);
}

function show(told) {
  const before = JSON.stringify(state.objects);
  state = told;
  if (grid && before !== JSON.stringify(state.objects)) colors();
  const draft = state.draft;
  $("draft").textContent = !draft ? "No draft." : `${draft.prompts.length} prompt${draft.prompts.length === 1 ? "" : "s"} for ${name(draft.object)}` + (draft.quality == null ? "" : `; the model expects an IoU of ${draft.quality.toFixed(2)}`);
  $("accept").disabled = $("discard").disabled = !draft;
  $("undo").disabled = !state.undo;
  $("redo").disabled = !state.redo;
  $("back").disabled = $("forth").disabled = !state.planes;
  document.title = `${state.saved ? "" : "• "}${state.case || "samunet"}`;
  $("save").textContent = state.saved ? "Saved" : "Save";
  list();
  mark();
}

const name = (value) => state.objects?.find((thing) => thing.value === value)?.name ?? value;

function colors() {
  const rgb = state.objects.map((thing) => [1, 3, 5].map((at) => parseInt(thing.color.slice(at, at + 2), 16)));
  const all = [[0, 0, 0], ...rgb.slice(0, 254)];
  nv.setDrawColormap({ R: all.map((c) => c[0]), G: all.map((c) => c[1]), B: all.map((c) => c[2]), A: all.map((_, i) => (i ? 255 : 0)), labels: all.map((_, i) => `${i}`) });
}

function list() {
  const things = state.objects ?? [];
  if (things.length && !things.some((thing) => thing.value === object)) object = things[0].value;
  $("objects").replaceChildren(...things.map((thing, index) => {
    const item = document.createElement("li"), swatch = document.createElement("span"), text = document.createElement("span"), key = document.createElement("span");
    [swatch.className, text.className, key.className] = ["swatch", "name", "key"];
    swatch.style.background = thing.color;
    text.textContent = thing.name;
    key.textContent = index < 9 ? index + 1 : "";
    item.append(swatch, text, key);
    item.tabIndex = 0;
    item.title = "Double click to rename";
    item.setAttribute("aria-current", thing.value === object);
    item.onclick = () => choose(thing.value);
    item.onkeydown = (event) => { if (event.key === "Enter") { event.stopPropagation(); choose(thing.value); } };
    item.ondblclick = () => { const name = prompt("Name of the object", thing.name); if (name) ifOpen(() => call("name_object", { object: thing.value, name })); };
    return item;
  }));
  $("cases").replaceChildren(...(state.cases ?? []).map((one) => new Option(`${one.done ? "✓ " : ""}${one.name}`, one.name, false, one.name === state.case)));
  const at = $("cases").selectedIndex;
  $("previous").disabled = at <= 0;
  $("next").disabled = at < 0 || at >= $("cases").length - 1;
}

function choose(value) {
  object = value;
  list();
}

function take(which) {
  tool = which;
  for (const button of $("tools").children) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  $("view").classList.toggle("edit", tool !== "move");
}

const common = () => ({ object, over: $("over").checked });
const fileAxis = (axis) => 2 - grid.order[axis]; // the server counts z, y, x

// Where the mouse is: the tile's axis of the page and the voxel, or null.
function placeOf(event) {
  const box = $("gl").getBoundingClientRect(), ratio = $("gl").width / box.width;
  const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
  const tile = nv.screenSlices[nv.tileIndex(x, y)];
  if (!tile || tile.axCorSag > 2) return null;
  const frac = nv.canvasPos2frac([x, y]);
  if (frac[0] < 0) return null;
  const voxel = grid.size.map((size, side) => Math.min(size - 1, Math.max(0, Math.floor(frac[side] * size))));
  return { axis: 2 - tile.axCorSag, voxel, mark: [x, y] };
}

function down(event) {
  if (tool === "move" || event.button !== 0 || !grid || opening) return;
  const place = placeOf(event);
  if (!place) return;
  plane = { axis: place.axis, place: place.voxel[place.axis] };
  told();
  const outside = $("outside").checked !== event.shiftKey;
  stroke = { axis: place.axis, plane: place.voxel[place.axis], path: [place.voxel], marks: [place.mark], outside };
  if (LINES.includes(tool)) event.stopPropagation(); // a point moves the crosshair too, so that the other planes follow
}

function move(event) {
  if (!stroke) return;
  event.stopPropagation();
  const place = placeOf(event);
  if (!place || place.axis !== stroke.axis || !LINES.includes(tool)) return;
  place.voxel[stroke.axis] = stroke.plane;
  stroke.path.push(place.voxel);
  stroke.marks.push(place.mark);
  mark();
}

function up(event) {
  if (!stroke) return;
  if (LINES.includes(tool)) event.stopPropagation();
  const done = stroke, axis = fileAxis(done.axis), path = done.path.map(grid.file), body = { ...common(), axis };
  stroke = null;
  const shown = { ...body, include_interaction: !done.outside };
  if (tool === "point") call("add_point_interaction", { ...shown, coordinates: path[0] });
  else if (tool === "box") {
    const ends = [path[0], path[path.length - 1]];
    call("add_bbox_interaction", { ...shown, bbox: [0, 1, 2].map((side) => [Math.min(ends[0][side], ends[1][side]), Math.max(ends[0][side], ends[1][side]) + 1]) });
  } else if (tool === "scribble" || tool === "lasso") call(`add_${tool}_interaction`, { ...shown, points: path });
  else call("paint", { ...body, points: path, radius: +$("radius").value, erase: tool === "erase" });
  mark();
}

// Prompts of the draft in the planes that are shown, and the line that is being drawn.
function mark() {
  const canvas = $("marks"), gl = $("gl");
  [canvas.width, canvas.height] = [gl.width, gl.height];
  const context = canvas.getContext("2d"), wide = Math.max(1.5, gl.width / 700);
  const trace = (places, color, closed) => {
    for (const [width, style] of [[3 * wide, "#000a"], [wide, color]]) {
      context.lineWidth = width; context.strokeStyle = style;
      context.beginPath();
      places.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      if (closed) context.closePath();
      context.stroke();
    }
  };
  const rectangle = ([a, b], [c, d]) => [[a, b], [c, b], [c, d], [a, d]];
  const draft = grid && state.draft;
  if (draft) {
    const here = nv.scene.crosshairPos;
    for (const each of draft.prompts) {
      const voxels = each.points.map(grid.page), color = each.include ? "#ffffff" : "#ff7b5a";
      for (const tile of nv.screenSlices) {
        const axis = 2 - tile.axCorSag;
        if (tile.axCorSag > 2 || voxels.some((voxel) => voxel[axis] !== Math.min(grid.size[axis] - 1, Math.floor(here[axis] * grid.size[axis])))) continue;
        const places = voxels.map((voxel) => nv.frac2canvasPosWithTile(voxel.map((index, side) => (index + 0.5) / grid.size[side]), tile.axCorSag)?.pos);
        if (places.includes(undefined)) continue;
        const [x, y] = places[0], r = 5 * wide;
        if (each.kind === "box") trace(rectangle(places[0], places[1]), color, true);
        else if (each.kind !== "point") trace(places, color, each.kind === "lasso");
        else if (each.include) { trace([[x - r, y], [x + r, y]], color); trace([[x, y - r], [x, y + r]], color); }
        else trace([[x - r, y], [x + r, y]], color); // a plus, and a minus: not told by color alone
      }
    }
  }
  if (stroke && LINES.includes(tool)) {
    const last = stroke.marks[stroke.marks.length - 1], color = stroke.outside || tool === "erase" ? "#ff7b5a" : "#ffffff";
    if (tool === "box") trace(rectangle(stroke.marks[0], last), color, true);
    else trace(stroke.marks, color, tool === "lasso");
  }
}

function told() {
  $("plane").textContent = grid ? `${SIDES[plane.axis]} ${plane.place + 1} of ${grid.size[plane.axis]}` : "";
}

function carry(step) {
  const here = grid.page([0, 0, 0]).map((index, side) => (side === plane.axis ? plane.place : index));
  const axis = grid.order[plane.axis], sign = Math.sign(grid.step[axis]);
  return call("propagate", { ...common(), axis: 2 - axis, index: grid.file(here)[axis], step: step * sign });
}

// `passed` says which cases before it could not be opened.
async function open(passed = []) {
  grid = null;
  say("Opening …", false);
  while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
  await nv.loadVolumes([{ url: "image.nii", name: "image.nii" }]);
  nv.createEmptyDrawing();
  grid = gridOf(nv.volumes[0]);
  plane = { axis: 2, place: Math.floor(grid.size[2] / 2) };
  told();
  colors();
  await put(await ask("target_buffer"));
  $("grid").textContent = `${state.shape.join(" x ")} voxels of ${state.spacing.map((mm) => +mm.toFixed(2)).join(" x ")} mm, ${state.orientation}; ${state.model}`;
  say([...passed, state.undo ? "Going on where this case was left." : ""].join(" "), passed.length > 0);
  document.body.dataset.case = state.case;
  follow();
}

// Open a case, or one after the other until one can be opened; where none can, the one that is open stays.
async function opened(...names) {
  if (opening) return list();
  const passed = [], before = document.body.dataset.case;
  delete document.body.dataset.case;
  opening = true;
  stroke = null;
  try {
    for (const name of names) {
      if (await call("set_image", { name })) return await open(passed);
      passed.push(`Case ${name} cannot be opened: ${$("note").textContent}`);
    }
    show(await ask("state"));
    if (state.case) document.body.dataset.case = before;
    say(passed.join(" "), true);
  } finally {
    opening = false;
  }
}

function step(by) {
  const names = Array.from($("cases").options, (one) => one.value), at = $("cases").selectedIndex;
  return opened(...(by > 0 ? names.slice(at + 1) : names.slice(0, at).reverse()));
}

async function follow() {
  let done, of;
  try {
    ({ done, of } = await ask("progress"));
  } catch (error) {
    $("progress").hidden = true;
    return say(error.message || String(error), true);
  }
  $("progress").hidden = done >= of;
  $("progress").value = of ? done / of : 0;
  $("progress").title = `${done} of ${of} planes encoded`;
  if (done < of) setTimeout(follow, 1000);
}

const KEYS = {
  n: () => call("name_object", {}), i: () => call("interpolate", { ...common(), axis: fileAxis(plane.axis) }), ",": () => carry(-1), ".": () => carry(1),
  Enter: () => call("accept"), Escape: () => call("discard"), x: () => { $("outside").checked = !$("outside").checked; },
  "[": () => brush(-0.5), "]": () => brush(0.5),
};
const CONTROL = { z: () => call("undo"), y: () => call("redo"), Z: () => call("redo"), s: () => call("save") };

function ifOpen(action) {
  if (grid && !opening) action();
}

function brush(change) {
  $("radius").value = +$("radius").value + change;
  $("radiusmm").textContent = `${$("radius").value} mm`;
}

function key(event) {
  if (["INPUT", "SELECT", "BUTTON"].includes(event.target.tagName) && ["Enter", " "].includes(event.key)) return;
  const chosen = event.ctrlKey || event.metaKey ? CONTROL[event.key] : KEYS[event.key];
  const asked = Object.keys(TOOLS).find((which) => TOOLS[which][1] === event.key);
  if (chosen) ifOpen(chosen);
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (asked) take(asked);
  else if (/^[1-9]$/.test(event.key) && state.objects?.[event.key - 1]) choose(state.objects[event.key - 1].value);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

async function begin() {
  for (const [which, [text, letter]] of Object.entries(TOOLS)) {
    const button = document.createElement("button");
    [button.textContent, button.title, button.dataset.tool] = [text, letter.toUpperCase(), which];
    button.onclick = () => take(which);
    $("tools").append(button);
  }
  take("point");
  brush(0);
  const buttons = { accept: KEYS.Enter, discard: KEYS.Escape, undo: CONTROL.z, redo: CONTROL.y, save: CONTROL.s, add: KEYS.n, interpolate: KEYS.i, back: KEYS[","], forth: KEYS["."] };
  for (const [id, action] of Object.entries(buttons)) $(id).onclick = () => ifOpen(action);
  $("reset").onclick = () => ifOpen(() => call("reset_interactions", common()));
  $("cases").onchange = () => opened($("cases").value);
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  $("radius").oninput = () => brush(0);
  $("opacity").oninput = () => nv.setDrawOpacity(+$("opacity").value);
  const view = $("view");
  for (const [what, listener] of [["mousedown", down], ["mousemove", move], ["mouseup", up]]) view.addEventListener(what, listener, true);
  window.addEventListener("mouseup", up);
  window.addEventListener("keydown", key, true);
  nv = await planes("gl");
  nv.setDrawOpacity(0.5);
  nv.onLocationChange = () => mark();
  new ResizeObserver(() => mark()).observe(view);
  show(await ask("state"));
  if (state.case) await open();
}

window.addEventListener("load", () => begin().catch((error) => say(error.message || String(error), true)));

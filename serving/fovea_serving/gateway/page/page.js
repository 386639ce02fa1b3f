// The page of `fovea serve`: an image goes to /v1/predict, and what comes back is drawn on it.
const COLORS = ["#2f6db3", "#d1603d", "#3f8f5b", "#8e5ea2", "#c9a227", "#3a9ca6"];
const LOWEST = 0.05; // candidates below are not kept by any model

const element = (id) => document.getElementById(id);
const state = { model: null, image: null, file: null, answer: null, hidden: new Set() };

const color = (name) => COLORS[Math.max(0, state.model.classes.indexOf(name)) % COLORS.length];

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

async function ask(path, options = {}) {
  const key = element("key").value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) element("keyField").hidden = false;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `${response.status} ${response.statusText}`);
  }
  return response.json();
}

async function loadModel() {
  state.model = await ask("v1/model");
  const { run, task, classes, confidenceThreshold } = state.model;
  element("model").textContent = `${task}, ${classes.length} classes, run ${run}`;
  element("threshold").value = confidenceThreshold;
  element("thresholdField").hidden = task === "SemanticSegmentation" || task === "Classification";
  showThreshold();
}

const showThreshold = () => {
  element("thresholdValue").textContent = Number(element("threshold").value).toFixed(2);
};

async function predict(file) {
  try {
    state.file = file;
    say("The image is being looked at …");
    if (!state.model) await loadModel();
    const begun = performance.now();
    const answer = await ask(`v1/predict?confidence=${LOWEST}`, { method: "POST", body: file });
    const roundTrip = performance.now() - begun;
    state.answer = answer.predictions[0];
    state.image = await createImageBitmap(file).catch(() => null);
    state.hidden.clear();
    listClasses();
    draw();
    element("result").hidden = false;
    const words = `${answer.milliseconds.toFixed(0)} ms in the service, ${roundTrip.toFixed(0)} ms with the way there`;
    say(`${words}; run ${answer.model.run}, request ${answer.requestId}`);
  } catch (error) {
    say(error.message, true);
  }
}

const shownObjects = () =>
  (state.answer.objects || []).filter(
    (each) => each.score >= Number(element("threshold").value) && !state.hidden.has(each.class));

const shownClasses = () => (state.answer.classes || []).filter((each) => !state.hidden.has(each.class));

function listClasses() {
  const names = new Set([...(state.answer.objects || []), ...(state.answer.classes || [])].map((each) => each.class));
  const rows = [...names].map((name) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.backgroundColor = color(name);
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(name);
      else state.hidden.add(name);
      draw();
    });
    label.append(box, swatch, name);
    return label;
  });
  element("classes").replaceChildren(element("classes").querySelector("legend"), ...rows);
}

function draw() {
  const { width, height } = state.answer;
  const canvas = Object.assign(element("canvas"), { width, height });
  const context = canvas.getContext("2d");
  if (state.image) context.drawImage(state.image, 0, 0, width, height);
  for (const each of shownClasses()) if (each.mask) tint(context, each.mask, color(each.class));
  const line = Math.max(1, Math.round(Math.max(width, height) / 400));
  context.lineWidth = line;
  context.font = `${Math.max(11, 6 * line)}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  for (const each of shownObjects()) {
    if (each.mask) tint(context, each.mask, color(each.class));
    const [left, top, right, bottom] = each.box;
    context.strokeStyle = context.fillStyle = color(each.class);
    context.strokeRect(left, top, right - left, bottom - top);
    const text = `${each.class} ${each.score.toFixed(2)}`;
    const size = Math.max(13, 7 * line);
    const base = Math.max(size, top);
    context.fillRect(left, base - size, context.measureText(text).width + 4, size);
    context.fillStyle = "#fff";
    context.fillText(text, left + 2, base);
  }
  fillTable();
}

function tint(context, mask, fill) {
  const [height, width] = mask.size;
  const pixels = context.getImageData(0, 0, width, height);
  const rgb = [1, 3, 5].map((start) => parseInt(fill.slice(start, start + 2), 16));
  let position = 0;
  runLengths(mask.counts).forEach((length, index) => {
    if (index % 2) {
      for (let at = position; at < position + length; at++) { // column by column, as COCO counts
        const offset = 4 * ((at % height) * width + Math.floor(at / height));
        rgb.forEach((value, channel) => {
          pixels.data[offset + channel] = 0.55 * pixels.data[offset + channel] + 0.45 * value;
        });
      }
    }
    position += length;
  });
  context.putImageData(pixels, 0, 0);
}

// COCO's compressed run lengths: five bits a character, least first, from the third on as differences.
export function runLengths(text) {
  const lengths = [];
  for (let at = 0; at < text.length;) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const bits = text.charCodeAt(at++) - 48;
      value |= (bits & 31) << shift;
      more = Boolean(bits & 32);
      shift += 5;
      if (!more && bits & 16) value |= -1 << shift;
    }
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}

function fillTable() {
  const objects = state.answer.objects;
  const total = state.answer.width * state.answer.height;
  const rows = objects
    ? shownObjects().map((each) => [each.class, each.score.toFixed(3), each.box.map(Math.round).join(", ")])
    : shownClasses().map((each) =>
        "score" in each ? [each.class, each.score.toFixed(3)] : [each.class, `${((100 * each.pixels) / total).toFixed(1)} %`]);
  const heads = objects ? ["Class", "Score", "Box"] : ["Class", state.model.task === "Classification" ? "Score" : "Area"];
  const row = (cells, tag) => {
    const line = document.createElement("tr");
    cells.forEach((text, index) => {
      const cell = Object.assign(document.createElement(tag), { textContent: text });
      if (tag === "th") cell.scope = "col";
      else if (index) cell.className = "number";
      line.append(cell);
    });
    return line;
  };
  element("table").tHead.replaceChildren(row(heads, "th"));
  element("table").tBodies[0].replaceChildren(...rows.map((cells) => row(cells, "td")));
}

const drop = element("drop");
element("form").addEventListener("submit", (event) => event.preventDefault());
element("file").addEventListener("change", (event) => event.target.files[0] && predict(event.target.files[0]));
element("threshold").addEventListener("input", () => {
  showThreshold();
  if (state.answer) draw();
});
element("key").addEventListener("change", () =>
  (state.file ? predict(state.file) : loadModel().then(() => say(""))).catch((error) => say(error.message, true)));
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) predict(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => event.clipboardData.files[0] && predict(event.clipboardData.files[0]));
loadModel().catch((error) => say(error.message, true));

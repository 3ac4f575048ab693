"use strict";
// The page: asks what it can choose from, sends an image and a request, follows the job, shows the result.
// All text from the server is set as text, never as HTML.

const at = (id) => document.getElementById(id);
const make = (tag, text = "", props = {}) => Object.assign(document.createElement(tag), { textContent: text }, props);
const percent = (p) => `${(100 * p).toFixed(1)} %`;
const number = (v) => (v === null ? "not a number" : Math.abs(v) < 1e6 ? v.toFixed(6) : v.toExponential(3));
const small = (v) => (v === null ? "not a number" : v === 0 ? "0" : v.toExponential(1));

let choices = null;
let image = null;
let turn = 0; // number of the request whose result is awaited; results of older ones are dropped
let pending = null;

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || `the server answered ${answer.status}`);
  return content;
}

function complain(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
  at("result").classList.toggle("stale", Boolean(error)); // an old result is not the answer to what failed
  if (!error) return;
  at("error").focus({ preventScroll: true });
  at("error").scrollIntoView({ block: "nearest" });
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", text, { value })));
}

async function begin() {
  choices = await call("api/choices");
  options(at("model"), choices.models.map((m) => [m.name, m.about]));
  options(at("composite"), choices.composites.map((c) => [c.name, c.name]));
  options(at("split"), choices.splits.map((s) => [s, s]));
  const levels = [["", "none"], [8, "8 levels, as in the paper"]];
  for (const k of [4, 16, 32]) levels.push([k, `${k} levels`]);
  options(at("levels"), levels);
  options(at("smooth"), choices.smoothings.map((w) => [w, w === 0 ? "none: every pixel" : `Gaussian of ${w} pixel${w === 1 ? "" : "s"}`]));
  at("smooth").value = "1";
  at("limits").textContent = `up to ${choices.limits.file_bytes / 1e6} MB and ${choices.limits.pixels / 1e6} million pixels`;
  for (const name of choices.baselines) {
    const box = make("input", "", { type: "checkbox", value: name, checked: name === "grad-cam" });
    const label = make("label", "", { className: "check" });
    label.append(box, name);
    at("baselines").append(label);
  }
  for (const name of choices.images) {
    const button = make("button", "", { type: "button" });
    button.append(make("img", "", { src: `${name}.jpg`, alt: name }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => choose(`sample:${name}`, button));
    at("samples").append(button);
  }
  fitModel();
  fitComposite();
}

function fitModel() {
  const model = choices.models.find((m) => m.name === at("model").value);
  at("classes").replaceChildren(...model.classes.map((name, k) => make("option", "", { value: `${k}: ${name}` })));
}

function fitComposite() {
  const chosen = choices.composites.find((c) => c.name === at("composite").value);
  at("about").textContent = chosen.about;
  at("split").disabled = at("identity").disabled = !chosen.splits;
}

function preview(file) {
  at("chosen").hidden = !file;
  if (!file) return;
  const reader = new FileReader(); // a data URI, which the page's policy allows
  reader.onload = () => { at("preview").src = reader.result; };
  reader.readAsDataURL(file);
  at("preview").alt = "The chosen image";
  at("filename").textContent = file.name;
}

function choose(id, button = null) {
  image = id;
  if (button) preview(null);
  for (const other of at("samples").children) other.setAttribute("aria-pressed", String(other === button));
  at("target").value = at("against").value = "";
  explain();
}

async function upload(file) {
  complain(null);
  if (file.size > choices.limits.file_bytes) {
    complain(new Error(`the file has ${(file.size / 1e6).toFixed(1)} MB; at most ${choices.limits.file_bytes / 1e6} MB are accepted`));
    return;
  }
  const mine = ++turn;
  preview(file);
  wait(0, "sending the image");
  try {
    const got = await call("api/images", { method: "POST", body: file });
    if (mine === turn) choose(got.id);
  } catch (error) {
    if (mine === turn) { wait(null); complain(error); }
  }
}

function classOf(id) {
  const text = at(id).value.trim();
  if (!text) return null;
  const model = choices.models.find((m) => m.name === at("model").value);
  const index = /^\d+/.test(text) ? parseInt(text, 10) : model.classes.findIndex((c) => c.toLowerCase() === text.toLowerCase());
  if (index < 0) throw new Error(`no class is called “${text}”; choose one of the list, or give its number`);
  return index;
}

function request() {
  const takes = !at("split").disabled;
  return {
    image,
    model: at("model").value,
    target: classOf("target"),
    against: classOf("against"),
    smooth: Number(at("smooth").value),
    composite: at("composite").value,
    split: takes ? at("split").value : null,
    identity: takes ? at("identity").checked : null,
    levels: at("levels").value === "" ? null : Number(at("levels").value),
    baselines: [...at("baselines").querySelectorAll("input:checked")].map((box) => box.value),
  };
}

function wait(progress, doing = "") {
  at("status").hidden = progress === null;
  at("result").classList.toggle("stale", progress !== null);
  if (progress === null) return;
  if (progress > 0) at("progress").value = progress;
  else at("progress").removeAttribute("value"); // moves without a share until one is known
  if (at("doing").textContent !== doing) at("doing").textContent = doing;
}

function cancel(id) {
  if (id) fetch(`api/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {}); // also while the page closes
}

async function explain() {
  complain(null);
  if (image === null) {
    complain(new Error("choose an image first"));
    return;
  }
  const mine = ++turn;
  cancel(pending);
  pending = null;
  try {
    wait(0, "sending the request");
    const body = JSON.stringify(request());
    let job = await call("api/jobs", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (mine !== turn) {
      cancel(job.id);
      return;
    }
    pending = job.id;
    while (mine === turn && (job.state === "waiting" || job.state === "running")) {
      wait(job.progress, job.doing);
      job = await call(`api/jobs/${job.id}?after=${job.version}`); // answered at the next change, or after a moment
    }
    if (mine !== turn) return;
    pending = null;
    wait(null);
    if (job.state !== "done") throw new Error(job.error);
    show(job);
    if (innerWidth < 900) at("result").scrollIntoView({ block: "start" }); // on a phone it is below the controls
  } catch (error) {
    if (mine === turn) { wait(null); complain(error); }
  }
}

function setImage(id, uri, alt) {
  at(id).src = uri;
  at(id).alt = alt;
  at(id).classList.toggle("small", uri.startsWith("data:image/png"));
}

function ramp(prefix, scale, unit = scale.unit) {
  at(`${prefix}ramp`).style.background = `linear-gradient(to right, ${scale.colours.join(", ")})`;
  at(`${prefix}low`).textContent = scale.low;
  at(`${prefix}high`).textContent = scale.high;
  at(`${prefix}unit`).textContent = unit;
}

function meter(width) {
  const bar = make("span", "", { className: "meter" });
  bar.style.width = `${Math.max(0, Math.min(100, width))}%`;
  return bar;
}

function show(job) {
  const found = job.result;
  at("empty").hidden = true;
  at("result").hidden = false;
  const contrast = found.probability === null;
  at("headline").textContent = contrast ? `${found.class}: ${number(found.score)}` : `${found.class}, ${percent(found.probability)}`;
  const stated = found.conservation.conservation;
  const statement = (good, text) => make("span", `${text[0].toUpperCase()}${text.slice(1)}. `, { className: good ? "good" : "bad" });
  at("verdict").replaceChildren(
    `Relevance sums to ${number(found.sum)} of ${number(found.score)}. `,
    statement(stated.no_leak, stated.leak_text),
    statement(stated.conserves_score, stated.score_text),
  );
  setImage("original", found.original, "The image, as the network sees it");
  setImage("overlay", found.overlay, `Relevance for ${found.class} over the image; half of it lies on ${percent(found.half)} of the pixels`);
  at("note").textContent = `Half of it on ${percent(found.half)} of the pixels; ${found.scale.note}` +
    (found.smooth ? `; drawn after a Gaussian of ${found.smooth} px, the files hold the raw map` : "");
  ramp("", found.scale);
  for (const [id, file] of [["png", "relevance.png"], ["npy", "heatmap.npy"], ["npz", "relevance.npz"], ["html", "report.html"]]) {
    at(id).href = `api/jobs/${job.id}/${file}`;
  }
  showTop(found);
  showLayers(found);
  showConservation(found.conservation);
  showMethods(found.methods);
}

function showTop(found) {
  at("top").replaceChildren(...found.top.map(({ index, name, probability }) => {
    const button = make("button", "", { type: "button" });
    button.append(make("span", name), meter(100 * probability), make("span", percent(probability), { className: "value" }));
    if (index === found.target) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => { at("target").value = `${index}: ${name}`; explain(); });
    const item = make("li");
    item.append(button);
    return item;
  }));
}

function showLayers(found) {
  const slider = at("depth");
  const keep = Number(slider.max) === found.layers.length - 1 ? slider.value : 0;
  slider.max = found.layers.length - 1;
  slider.value = keep;
  const move = () => {
    const layer = found.layers[Number(slider.value)];
    setImage("layer", layer.image, `Relevance at ${layer.name} over the image`);
    at("layer-name").textContent = layer.name === "input" ? "the image" : layer.name;
    at("layer-size").textContent = layer.size;
    at("layer-sum").textContent = number(layer.sum);
    at("depth-label").textContent = `Layer ${Number(slider.value) + 1} of ${found.layers.length}`;
    slider.setAttribute("aria-valuetext", layer.name);
  };
  slider.oninput = move;
  move();
}

function showConservation(table) {
  const rows = table.blocks.filter((b) => b.leak !== 0 || b.absorbed !== 0 || b.block.includes("."));
  const values = [0, table.start, table.end, ...rows.map((b) => b.received)].filter((v) => v !== null);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const line = (name, received, leak, absorbed) => {
    const row = make("tr");
    const drawn = make("td", "", { className: "drawn" });
    const axis = make("span", "", { className: "axis" });
    const bar = meter((100 * Math.abs(received ?? 0)) / span);
    bar.classList.toggle("against", received < 0);
    bar.style.left = `${(100 * (Math.min(received ?? 0, 0) - low)) / span}%`;
    const zero = make("span", "", { className: "zero" });
    zero.style.left = `${(-100 * low) / span}%`;
    axis.append(bar, zero);
    drawn.append(axis);
    const cells = [number(received), leak, absorbed].map((text) => make("td", text, { className: "number" }));
    row.append(make("th", name, { scope: "row" }), drawn, ...cells);
    return row;
  };
  at("conservation").tBodies[0].replaceChildren(
    ...rows.map((b) => line(b.block, b.received, small(b.leak), small(b.absorbed))),
    line("the image", table.end, "", ""),
  );
  at("conservation-note").textContent =
    `From the output to the image: ${number(table.start)} at the output, ${number(table.end)} at the image. ` +
    `Bars run from zero, on an axis from ${low.toPrecision(3)} to ${(low + span).toPrecision(3)}; blue is below zero. ` +
    "A leak is relevance lost where a rule must keep it; what rules absorb by design (bias, ε) is counted apart.";
}

function showMethods(methods) {
  at("compared").hidden = methods.panels.length < 2;
  at("methods").replaceChildren(...methods.panels.map(({ name, image: uri, alt, note }) => {
    const figure = make("figure");
    if (uri) figure.append(make("img", "", { src: uri, alt, className: uri.startsWith("data:image/png") ? "small" : "" }));
    else figure.append(make("div", "no map", { className: "missing" }));
    const caption = make("figcaption");
    caption.append(make("strong", name), note);
    figure.append(caption);
    return figure;
  }));
  ramp("m", methods.scale, methods.unit);
}

at("request").addEventListener("submit", (event) => { event.preventDefault(); explain(); });
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = ""; // so that the same file can be chosen again
  if (file) upload(file);
});
at("composite").addEventListener("change", () => { fitComposite(); if (image) explain(); });
for (const id of ["split", "identity", "levels", "smooth"]) at(id).addEventListener("change", () => { if (image) explain(); });
at("model").addEventListener("change", () => { fitModel(); at("target").value = at("against").value = ""; if (image) explain(); });
at("baselines").addEventListener("change", () => { if (image) explain(); });
for (const id of ["target", "against"]) at(id).addEventListener("change", () => { if (image) explain(); });
for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
  });
}
addEventListener("pagehide", () => cancel(pending));
begin().catch(complain);

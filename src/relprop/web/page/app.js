"use strict";
// The page: asks what is on offer, sends a picture and a wish, follows the queue, shows what comes back.
// All text from the server is set as text, never as HTML.

const at = (id) => document.getElementById(id);
const make = (tag, text = "", props = {}) => Object.assign(document.createElement(tag), { textContent: text }, props);
const percent = (p) => `${(100 * p).toFixed(1)} %`;
const number = (v) => (v === null ? "not a number" : Math.abs(v) < 1e6 ? v.toFixed(6) : v.toExponential(3));
const small = (v) => (v === null ? "not a number" : v === 0 ? "0" : v.toExponential(1));

let offers = null;
let picture = null;
let turn = 0; // of the wish whose answer is awaited; older ones are dropped
let pending = null;

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error || `the server answered ${answer.status}`);
  return said;
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
  offers = await call("api/offers");
  options(at("model"), offers.models.map((m) => [m.name, m.about]));
  options(at("composite"), offers.composites.map((c) => [c.name, c.name]));
  options(at("split"), offers.splits.map((s) => [s, s]));
  const levels = [["", "none"], [8, "8 levels, as in the paper"]];
  for (const k of [4, 16, 32]) levels.push([k, `${k} levels`]);
  options(at("levels"), levels);
  options(at("smooth"), offers.smoothings.map((w) => [w, w === 0 ? "none: every pixel" : `Gaussian of ${w} pixel${w === 1 ? "" : "s"}`]));
  at("smooth").value = "1";
  at("limits").textContent = `up to ${offers.limits.file_bytes / 1e6} MB and ${offers.limits.pixels / 1e6} million pixels`;
  for (const name of offers.baselines) {
    const box = make("input", "", { type: "checkbox", value: name, checked: name === "grad-cam" });
    const label = make("label", "", { className: "check" });
    label.append(box, name);
    at("baselines").append(label);
  }
  for (const name of offers.pictures) {
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
  const model = offers.models.find((m) => m.name === at("model").value);
  at("classes").replaceChildren(...model.classes.map((name, k) => make("option", "", { value: `${k}: ${name}` })));
}

function fitComposite() {
  const chosen = offers.composites.find((c) => c.name === at("composite").value);
  at("about").textContent = chosen.about;
  at("split").disabled = at("identity").disabled = !chosen.splits;
}

function preview(file) {
  at("chosen").hidden = !file;
  if (!file) return;
  const reader = new FileReader(); // a data URI, which the page's policy allows
  reader.onload = () => { at("preview").src = reader.result; };
  reader.readAsDataURL(file);
  at("preview").alt = "The picture that was chosen";
  at("filename").textContent = file.name;
}

function choose(id, button = null) {
  picture = id;
  if (button) preview(null);
  for (const other of at("samples").children) other.setAttribute("aria-pressed", String(other === button));
  at("target").value = at("against").value = "";
  explain();
}

async function upload(file) {
  complain(null);
  if (file.size > offers.limits.file_bytes) {
    complain(new Error(`the file has ${(file.size / 1e6).toFixed(1)} MB; at most ${offers.limits.file_bytes / 1e6} MB are taken`));
    return;
  }
  const mine = ++turn;
  preview(file);
  wait(0, "sending the picture");
  try {
    const got = await call("api/pictures", { method: "POST", body: file });
    if (mine === turn) choose(got.id);
  } catch (error) {
    if (mine === turn) { wait(null); complain(error); }
  }
}

function classOf(id) {
  const text = at(id).value.trim();
  if (!text) return null;
  const model = offers.models.find((m) => m.name === at("model").value);
  const index = /^\d+/.test(text) ? parseInt(text, 10) : model.classes.findIndex((c) => c.toLowerCase() === text.toLowerCase());
  if (index < 0) throw new Error(`no class is called “${text}”; choose one of the list, or give its number`);
  return index;
}

function wish() {
  const takes = !at("split").disabled;
  return {
    picture,
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

async function explain() {
  complain(null);
  if (picture === null) {
    complain(new Error("choose a picture first"));
    return;
  }
  const mine = ++turn;
  if (pending) call(`api/jobs/${pending}`, { method: "DELETE" }).catch(() => {});
  try {
    wait(0, "asking");
    const body = JSON.stringify(wish());
    let job = await call("api/jobs", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    pending = job.id;
    while (mine === turn && (job.state === "waiting" || job.state === "running")) {
      wait(job.progress, job.doing);
      await new Promise((done) => setTimeout(done, 250));
      job = await call(`api/jobs/${job.id}`);
    }
    if (mine !== turn) return;
    pending = null;
    wait(null);
    if (job.state === "failed") throw new Error(job.error);
    if (job.state === "done") show(job);
    if (innerWidth < 900) at("result").scrollIntoView({ block: "start" }); // on a phone it is below the controls
  } catch (error) {
    if (mine === turn) { wait(null); complain(error); }
  }
}

function image(id, uri, alt) {
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
  const said = found.books.conservation;
  const statement = (good, text) => make("span", `${text[0].toUpperCase()}${text.slice(1)}. `, { className: good ? "good" : "bad" });
  at("verdict").replaceChildren(
    `Relevance sums to ${number(found.sum)} of ${number(found.score)}. `,
    statement(said.no_leak, said.leak_text),
    statement(said.conserves_score, said.score_text),
  );
  image("original", found.original, "The picture, as the network sees it");
  image("overlay", found.overlay, `Relevance for ${found.class} over the picture; half of it lies on ${percent(found.half)} of the pixels`);
  at("note").textContent = `Half of it on ${percent(found.half)} of the pixels; ${found.scale.note}` +
    (found.smooth ? `; drawn after a Gaussian of ${found.smooth} px, the files hold the raw map` : "");
  ramp("", found.scale);
  for (const [id, file] of [["png", "relevance.png"], ["npy", "heatmap.npy"], ["npz", "relevance.npz"], ["html", "report.html"]]) {
    at(id).href = `api/jobs/${job.id}/${file}`;
  }
  showTop(found);
  showWay(found);
  showBooks(found.books);
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

function showWay(found) {
  const slider = at("depth");
  const keep = Number(slider.max) === found.stops.length - 1 ? slider.value : 0;
  slider.max = found.stops.length - 1;
  slider.value = keep;
  const move = () => {
    const stop = found.stops[Number(slider.value)];
    image("stop", stop.picture, `Relevance at ${stop.name} over the picture`);
    at("stop-name").textContent = stop.name === "input" ? "the image" : stop.name;
    at("stop-size").textContent = stop.size;
    at("stop-sum").textContent = number(stop.sum);
    at("depth-label").textContent = `Place ${Number(slider.value) + 1} of ${found.stops.length}`;
    slider.setAttribute("aria-valuetext", stop.name);
  };
  slider.oninput = move;
  move();
}

function showBooks(books) {
  const rows = books.blocks.filter((b) => b.leak !== 0 || b.absorbed !== 0 || b.block.includes("."));
  const values = [0, books.start, books.end, ...rows.map((b) => b.received)].filter((v) => v !== null);
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
  at("books").tBodies[0].replaceChildren(
    ...rows.map((b) => line(b.block, b.received, small(b.leak), small(b.absorbed))),
    line("the image", books.end, "", ""),
  );
  at("books-note").textContent =
    `From the output to the image: started with ${number(books.start)}, ${number(books.end)} arrived. ` +
    `Bars run from zero, on an axis from ${low.toPrecision(3)} to ${(low + span).toPrecision(3)}; blue is below zero. ` +
    "A leak is relevance lost where a rule must keep it; what rules take on purpose (bias, ε) is absorbed.";
}

function showMethods(methods) {
  at("beside").hidden = methods.panels.length < 2;
  at("methods").replaceChildren(...methods.panels.map(({ name, picture: uri, alt, note }) => {
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

at("wish").addEventListener("submit", (event) => { event.preventDefault(); explain(); });
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = ""; // so that the same file can be chosen again
  if (file) upload(file);
});
at("composite").addEventListener("change", () => { fitComposite(); if (picture) explain(); });
for (const id of ["split", "identity", "levels", "smooth"]) at(id).addEventListener("change", () => { if (picture) explain(); });
at("model").addEventListener("change", () => { fitModel(); at("target").value = at("against").value = ""; if (picture) explain(); });
at("baselines").addEventListener("change", () => { if (picture) explain(); });
for (const id of ["target", "against"]) at(id).addEventListener("change", () => { if (picture) explain(); });
for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
  });
}
begin().catch(complain);

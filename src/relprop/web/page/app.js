// The page: what can be chosen, the question and its address, the job that answers it.
import { at, make } from "./dom.js";
import { onRegion, region, setRegion, showMaps } from "./maps.js";
import { showClasses, showConservation, showLayers, showMethods, showVerdict } from "./panels.js";

const MOST = 200; // images of a folder that are listed
const form = at("request");
const image = at("image");

let choices = null;
let usual = {}; // the question before anything is chosen: an address holds what differs from it
let turn = 0; // number of the request whose result is awaited; results of older ones are dropped
let pending = null; // {id, body} of the job that runs
let current = null; // the question that was asked last

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

// What can be chosen

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", text, { value, defaultSelected: value === chosen })));
}

async function begin() {
  choices = await call("api/choices");
  options(at("model"), choices.models.map((m) => [m.name, m.about]));
  options(at("composite"), choices.composites.map((c) => [c.name, c.name]));
  options(at("split"), choices.splits.map((s) => [s, s]));
  options(at("levels"), [["", "none"], [8, "8 levels, as in the paper"], ...[4, 16, 32].map((k) => [k, `${k} levels`])]);
  options(at("smooth"), choices.smoothings.map((w) => [w, w === 0 ? "none: every pixel" : `Gaussian of ${w} pixel${w === 1 ? "" : "s"}`]), 1);
  at("limits").textContent = `up to ${choices.limits.file_bytes / 1e6} MB and ${choices.limits.pixels / 1e6} million pixels each`;
  for (const name of choices.baselines) {
    const label = make("label", "", { className: "check" });
    label.append(make("input", "", { type: "checkbox", name: "baselines", value: name }), name);
    at("baselines").append(label);
  }
  for (const name of choices.images) {
    at("strip").append(thumb(`api/images/${encodeURIComponent(name)}.jpg`, name, (button) => choose(button.dataset.image)));
    at("strip").lastElementChild.dataset.image = `sample:${name}`;
  }
  fitModel();
  fitComposite();
  usual = question();
  read();
}

function fitModel() {
  at("classes").replaceChildren(...model().classes.map((name, k) => make("option", "", { value: `${k}: ${name}` })));
}

function fitComposite() {
  const chosen = choices.composites.find((c) => c.name === at("composite").value);
  at("about").textContent = chosen?.about ?? "";
  at("split").disabled = at("identity").disabled = !chosen?.splits;
}

// Images

function thumb(src, name, chosen) {
  const button = make("button", "", { type: "button", title: name });
  button.append(make("img", "", { src, alt: name, loading: "lazy" }));
  button.addEventListener("click", () => chosen(button));
  return button;
}

function choose(id) {
  image.value = id;
  at("target").value = at("against").value = "";
  setRegion(null);
  explain();
}

function add(files) {
  const images = files.filter((file) => file.type.startsWith("image/") || files.length === 1);
  if (!images.length) return complain(new Error("there is no image among these files"));
  const made = images.slice(0, MOST).map((file) => thumb(URL.createObjectURL(file), file.name, (button) => upload(file, button)));
  at("strip").prepend(...made);
  made[0].click();
  if (images.length > MOST) complain(new Error(`the first ${MOST} of ${images.length} images are listed`));
}

async function upload(file, button) {
  complain(null);
  const mine = ++turn;
  const most = choices.limits.file_bytes;
  wait({ doing: "sending the image" });
  try {
    if (file.size > most) throw new Error(`the file has ${(file.size / 1e6).toFixed(1)} MB; at most ${most / 1e6} MB are accepted`);
    const got = await call("api/images", { method: "POST", body: file });
    button.dataset.image = got.id;
    if (mine === turn) choose(got.id);
  } catch (error) {
    button.remove();
    if (mine === turn) { wait(null); complain(error); }
  }
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((found, failed) => entry.file(found, failed))];
  const [reader, entries] = [entry.createReader(), []];
  for (;;) {
    const some = await new Promise((found, failed) => reader.readEntries(found, failed)); // a hundred at a time
    if (!some.length) return (await Promise.all(entries.map(filesIn))).flat();
    entries.push(...some);
  }
}

// The question, and the address that holds it

const model = () => choices.models.find((m) => m.name === at("model").value) ?? choices.models[0];
const named = (index) => (index === null ? "" : `${index}: ${model().classes[index] ?? ""}`);

function classOf(id) {
  const text = at(id).value.trim();
  if (!text) return null;
  const index = /^\d+/.test(text) ? parseInt(text, 10) : model().classes.findIndex((c) => c.toLowerCase() === text.toLowerCase());
  if (index < 0) throw new Error(`no class is called “${text}”; choose one of the list, or give its number`);
  return index;
}

function question() {
  const given = new FormData(form); // without the fields that are disabled
  const plain = (name) => (given.get(name) ? JSON.parse(given.get(name)) : null);
  return {
    image: image.value,
    model: given.get("model"),
    target: classOf("target"),
    against: classOf("against"),
    composite: given.get("composite"),
    split: given.get("split"),
    identity: plain("identity"),
    smooth: plain("smooth"),
    levels: plain("levels"),
    baselines: given.getAll("baselines"),
  };
}

function addressOf(asked) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) {
    if (value !== null && String(value) !== String(usual[name])) parts.set(name, value);
  }
  if (region()) parts.set("region", region());
  return `#${String(parts).replaceAll("%3A", ":").replaceAll("%2C", ",")}`;
}

// Take the question over from the address, and ask it.
function read() {
  const parts = new URLSearchParams(location.hash.slice(1));
  form.reset();
  image.value = parts.get("image") ?? "";
  for (const name of ["model", "composite", "split", "identity", "smooth", "levels"]) {
    if (parts.has(name)) at(name).value = parts.get(name);
  }
  fitModel();
  fitComposite();
  for (const name of ["target", "against"]) at(name).value = named(parts.get(name));
  const compared = parts.get("baselines")?.split(",") ?? [];
  for (const box of at("baselines").querySelectorAll("input")) box.checked = compared.includes(box.value);
  const edges = parts.get("region")?.split(",").map((edge) => Math.round(Number(edge))) ?? [];
  setRegion(edges.length === 4 && edges.every(Number.isFinite) ? edges : null);
  at("result").hidden = !image.value;
  at("empty").hidden = Boolean(image.value);
  if (image.value) explain();
}

// The job

function wait(job) {
  at("status").hidden = !job;
  at("result").classList.toggle("stale", Boolean(job));
  if (!job) return;
  if (job.progress) at("progress").value = job.progress;
  else at("progress").removeAttribute("value"); // moves without a share until one is known
  const doing = job.stage ? `${job.doing}, ${job.stage} of ${job.stages}` : job.doing;
  at("doing").textContent = doing;
  say(doing);
  at("left").textContent = job.state === "running" ? timeLeft(job.left) : "";
}

// Tell those who listen to the page, where it is new.
function say(text) {
  if (at("news").textContent !== text) at("news").textContent = text;
}

function timeLeft(seconds) {
  if (seconds === null) return "(a network's first image takes longest)";
  if (seconds > 90) return `(about ${Math.round(seconds / 60)} minutes left)`;
  return seconds > 1.5 ? `(about ${Math.round(seconds)} seconds left)` : "(about a second left)";
}

function cancel() {
  if (pending) fetch(`api/jobs/${pending.id}`, { method: "DELETE", keepalive: true }).catch(() => {}); // also while the page closes
  pending = null;
}

async function explain() {
  complain(null);
  let asked;
  try {
    asked = question();
    if (!asked.image) throw new Error("choose an image first");
  } catch (error) {
    complain(error);
    return;
  }
  const body = JSON.stringify(asked);
  if (pending?.body === body) return;
  current = asked;
  const mine = ++turn;
  cancel();
  for (const button of at("strip").children) button.setAttribute("aria-pressed", String(button.dataset.image === asked.image));
  if (addressOf(asked) !== location.hash) history.pushState(null, "", addressOf(asked));
  try {
    wait({ doing: "sending the request" });
    let job = await call("api/jobs", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    const started = { id: job.id, body };
    if (mine !== turn) {
      fetch(`api/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
      return;
    }
    pending = started;
    while (mine === turn && (job.state === "waiting" || job.state === "running")) {
      wait(job);
      job = await call(`api/jobs/${job.id}?after=${job.version}`); // answered at the next change, or after a moment
    }
    if (mine !== turn) return;
    pending = null;
    if (job.state !== "done") throw new Error(job.error);
    await show(job, asked);
    if (mine === turn) wait(null);
  } catch (error) {
    if (mine === turn) { wait(null); complain(error); }
  }
}

async function show(job, asked) {
  const found = job.result;
  at("empty").hidden = true;
  at("result").hidden = false;
  showVerdict(found);
  for (const link of document.querySelectorAll("[data-file]")) link.href = `api/jobs/${job.id}/${link.dataset.file}`;
  at("link").href = addressOf(asked);
  showClasses(found, asked.against, (target, against) => {
    at("target").value = named(target);
    at("against").value = named(against);
    explain();
  });
  showLayers(found);
  showConservation(found.conservation);
  showMethods(found.methods);
  await showMaps(job);
  say(at("headline").textContent);
  if (innerWidth < 900) at("result").scrollIntoView({ block: "start" }); // on a phone it is below the images
}

// What people do

form.addEventListener("submit", (event) => { event.preventDefault(); explain(); });
form.addEventListener("change", ({ target }) => {
  if (target.name === "model") {
    fitModel();
    at("target").value = at("against").value = "";
  }
  if (target.name === "composite") fitComposite();
  if (target.name && image.value) explain();
});
at("file").addEventListener("change", () => {
  const files = [...at("file").files];
  at("file").value = ""; // so that the same file can be chosen again
  if (files.length) add(files);
});
at("cancel").addEventListener("click", () => {
  turn++;
  cancel();
  wait(null);
  complain(new Error("this explanation was cancelled"));
});
onRegion(() => {
  const address = addressOf(current);
  history.replaceState(null, "", address);
  at("link").href = address;
});
at("link").addEventListener("click", async (event) => {
  if (!navigator.clipboard) return; // which browsers keep from pages without TLS, this machine's own apart
  event.preventDefault();
  await navigator.clipboard.writeText(at("link").href);
  say("The link is copied");
  at("link").textContent = "Link copied";
  setTimeout(() => { at("link").textContent = "Link to this question"; }, 2000);
});
addEventListener("paste", ({ clipboardData: { files } }) => { if (files.length) add([...files]); });
addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", async (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.remove("over");
  const { files, items } = event.dataTransfer;
  const dropped = [...files];
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean); // which tell folders
  add(entries.length ? (await Promise.all(entries.map(filesIn))).flat() : dropped);
});
addEventListener("popstate", read);
addEventListener("pagehide", cancel);
begin().catch(complain);

// The two maps over the photograph: how much of the score lies at a place, and in a region.
// Both are sums of the raw maps, which are the files that can be downloaded, never of the colours.
import { at, copy, legend, make, number, percent, setImage } from "./dom.js";

let shown = []; // {title, values, stage} of each map
let size = [1, 1]; // width and height, in pixels of what the network sees
let score = 1;
let box = null; // [x0, y0, x1, y1]
let settled = () => {}; // called when the region has changed

const edges = ["left-edge", "top-edge", "region-width", "region-height"].map(at);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export const region = () => box;
export const onRegion = (call) => { settled = call; };

export async function showMaps(job) {
  const { maps, original, class: name } = job.result;
  ({ size, score } = job.result);
  const mine = shown = maps.map((map) => ({ title: map.title, values: null, stage: null }));
  at("maps").replaceChildren(...maps.map((map, index) => {
    const figure = copy("map-template");
    figure.querySelector("h3").append(map.title, make("small", map.about));
    const stage = mine[index].stage = figure.querySelector(".stage");
    if (map.error) {
      figure.querySelector("figcaption").remove();
      stage.replaceWith(make("p", `No map here: ${map.error}`, { className: "missing" }));
      return figure;
    }
    setImage(stage.querySelector(".photo"), original, "The image, as the network sees it");
    const half = `half of it lies on ${percent(map.half)} of the pixels`;
    setImage(stage.querySelector(".heat"), map.overlay, `Relevance for ${name} over the image; ${half}`);
    stage.after(legend(map.scale));
    figure.querySelector(".half").textContent = `${half[0].toUpperCase()}${half.slice(1)}.`;
    figure.querySelector(".note").textContent = map.scale.note +
      (job.result.smooth ? `; drawn after a Gaussian of ${job.result.smooth} px, files and sums are of the raw map` : "");
    listen(stage);
    return figure;
  }));
  [edges[0].max, edges[1].max, edges[2].max, edges[3].max] = [...size, ...size];
  const files = maps.map((map) => (map.error ? null : readNpy(`api/jobs/${job.id}/${map.file}`)));
  (await Promise.all(files)).forEach((values, index) => { mine[index].values = values; });
  if (mine === shown) setRegion(box); // no later result was shown meanwhile
}

// The floats of an .npy file as the server writes it: version 1.0, little endian, float32.
async function readNpy(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error("the floats of this map are no longer kept; explain the image again");
  const content = await answer.arrayBuffer();
  return new Float32Array(content, 10 + new DataView(content).getUint16(8, true));
}

function sum(values, [x0, y0, x1, y1]) {
  let total = 0;
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) total += values[y * size[0] + x];
  return total;
}

const share = (total) => `${Number(((100 * total) / score).toPrecision(3))} %`;

// "41.2 % of the score by the paper's map, 52 % by lrp-cuts"; amounts where the score has no shares, being negative
function held(area) {
  const parts = shown.filter((map) => map.values).map((map) => [sum(map.values, area), map.title.replace(/^The/, "the")]);
  if (score <= 0) return `${parts.map(([total, title]) => `${number(total)} by ${title}`).join(", ")}, of ${number(score)}`;
  return parts.map(([total, title], index) => `${share(total)}${index ? "" : " of the score"} by ${title}`).join(", ");
}

function place(mark, area) {
  mark.hidden = !area;
  if (!area) return;
  const [left, top, right, bottom] = area.map((value, index) => (100 * value) / size[index % 2]);
  mark.style.inset = `${top}% ${100 - right}% ${100 - bottom}% ${left}%`;
}

export function setRegion(wanted) {
  box = wanted;
  if (!shown.length) return; // that of an address, before anything is shown
  if (wanted) {
    const [width, height] = size;
    const [x0, y0] = [clamp(wanted[0], 0, width - 1), clamp(wanted[1], 0, height - 1)];
    box = [x0, y0, clamp(wanted[2], x0 + 1, width), clamp(wanted[3], y0 + 1, height)];
  }
  for (const { stage, values } of shown) {
    if (!stage.isConnected) continue;
    place(stage.querySelector(".box"), box);
    stage.querySelector("b").textContent = box && values && score > 0 ? share(sum(values, box)) : "";
  }
  const [x0, y0, x1, y1] = box ?? [];
  [x0, y0, x1 - x0, y1 - y0].forEach((value, index) => { edges[index].value = box ? value : ""; });
  at("no-region").disabled = !box;
  const known = shown.some((map) => map.values);
  at("held").textContent = box && known
    ? `This region holds ${held(box)}. It is ${percent(((x1 - x0) * (y1 - y0)) / (size[0] * size[1]))} of the image.`
    : "";
  at("python").hidden = !box;
  at("python").querySelector("code").textContent = box ? `result.sum((${box.join(", ")}))` : "";
}

function squareAt([x, y], side) {
  const [left, top] = [x, y].map((value, index) => clamp(Math.round(value - side / 2), 0, size[index] - side));
  return [left, top, left + side, top + side];
}

function point(here) {
  const side = 2 * Math.max(1, Math.round(Math.min(...size) / 56)) + 1; // one pixel says little: strides leave a lattice
  const area = here && squareAt(here, Math.min(side, ...size));
  for (const { stage } of shown) if (stage.isConnected) place(stage.querySelector(".point"), area);
  if (area) at("here").textContent = `${side} x ${side} pixels around column ${Math.floor(here[0])}, row ${Math.floor(here[1])}: ${held(area)}.`;
}

function listen(stage) {
  let start = null;
  let dragged = false;
  const where = (event) => {
    const { left, top, width, height } = stage.getBoundingClientRect();
    const shares = [(event.clientX - left) / width, (event.clientY - top) / height];
    return shares.map((share, index) => clamp(share, 0, 1) * size[index]);
  };
  const end = () => { start = null; };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    [start, dragged] = [where(event), false];
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const here = where(event);
    point(here);
    if (!start) return;
    dragged ||= Math.hypot(here[0] - start[0], here[1] - start[1]) > Math.max(...size) / 60;
    if (dragged) {
      const corners = [0, 1].map((axis) => [start[axis], here[axis]].sort((a, b) => a - b));
      setRegion([Math.floor(corners[0][0]), Math.floor(corners[1][0]), Math.ceil(corners[0][1]), Math.ceil(corners[1][1])]);
    }
  });
  stage.addEventListener("pointerup", () => {
    if (!start) return;
    if (!dragged) setRegion(squareAt(start, Math.ceil(Math.min(...size) / 4)));
    end();
    settled();
  });
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("pointerleave", () => point(null));
}

for (const [index, input] of edges.entries()) {
  input.addEventListener("input", () => {
    const given = edges.map((edge) => Math.round(Number(edge.value)));
    const usual = size.map((side) => Math.ceil(side / 4));
    const [width, height] = usual.map((side, axis) => (edges[2 + axis].value === "" ? side : given[2 + axis]));
    if (edges[index].value !== "") setRegion([given[0], given[1], given[0] + width, given[1] + height]);
  });
  input.addEventListener("change", () => settled());
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); }); // asks nothing new
}
at("no-region").addEventListener("click", () => { setRegion(null); settled(); edges[0].focus(); });
at("fade").addEventListener("input", ({ target }) => {
  at("maps").style.setProperty("--fade", target.value / 100);
  target.setAttribute("aria-valuetext", `${target.value} % map`);
});

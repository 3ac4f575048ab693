// One image, its relevance at the pixels and at kept layers: a slider that fades, one that goes through the layers, and
// what a box holds. `model` has the traits of `relprop.viz.widget`; sums are of the relevance itself, not of colours.

const STYLE = `
.relprop { max-width: 30rem; font: 14px/1.5 system-ui, sans-serif; }
.relprop .stage { position: relative; touch-action: none; cursor: crosshair; user-select: none; }
.relprop img { display: block; width: 100%; pointer-events: none; }
.relprop img + img { position: absolute; inset: 0; height: 100%; }
.relprop .box { position: absolute; box-sizing: border-box; outline: 1px solid #000; border: 2px solid #fff; pointer-events: none; }
.relprop label { display: inline-flex; align-items: center; gap: .5em; margin: .3em 1em 0 0; }
.relprop .row { display: flex; margin-right: 0; }
.relprop [type=range] { flex: 1; }
.relprop [type=number] { width: 4.5em; }
.relprop fieldset { border: 0; padding: 0; margin: .3em 0; }
.relprop p, .relprop output { display: block; margin: .3em 0; }
.relprop small { opacity: .8; }`;

const SIDES = ["left", "top", "right", "bottom"];

function render({ model, el }) {
  const [height, width] = model.get("size"), names = model.get("names"), score = model.get("score");
  const bytes = model.get("maps"), raw = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const maps = new Float64Array(raw);
  const urls = [model.get("photograph"), ...model.get("overlays")].map(
    (png) => png.byteLength && URL.createObjectURL(new Blob([png], { type: "image/png" })));
  el.innerHTML = `<style>${STYLE}</style><div class="relprop"><p class="title"></p>
    <div class="stage"><img class="photograph" alt="the photograph"><img class="map"><div class="box"></div></div>
    <small class="note"></small>
    <label class="row">fade <input class="fade" type="range" min="0" max="1" step="0.01"></label>
    <label class="row">layer <input class="layer" type="range" min="0" step="1"> <output class="name"></output></label>
    <fieldset><legend>Drag a box over the image, or type its edges in pixels</legend>
    ${SIDES.map((side) => `<label>${side} <input class="side" type="number"></label>`).join("")}</fieldset>
    <output class="sum" aria-live="polite"></output></div>`;
  const find = (name) => el.querySelector(`.${name}`);
  const [stage, fade, layer] = ["stage", "fade", "layer"].map(find), sides = [...el.querySelectorAll(".side")];
  find("title").textContent = model.get("title");
  if (urls[0]) find("photograph").src = urls[0];
  else {
    find("photograph").remove(); // the map stands alone, and nothing is there to fade to
    fade.parentElement.style.display = "none";
  }
  layer.max = names.length - 1;
  if (names.length < 2) layer.parentElement.style.display = "none";

  function sum(at, [x0, y0, x1, y1]) {
    let total = 0;
    for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) total += maps[(at * height + y) * width + x];
    return total;
  }

  function draw() {
    const at = model.get("layer"), box = model.get("box"), [x0, y0, x1, y1] = box;
    fade.value = model.get("fade");
    layer.value = at;
    layer.setAttribute("aria-valuetext", names[at]);
    find("name").textContent = names[at];
    find("note").textContent = model.get("notes")[at];
    if (find("map").src !== urls[at + 1]) find("map").src = urls[at + 1];
    find("map").alt = `relevance: ${names[at]}`;
    find("map").style.opacity = urls[0] ? model.get("fade") : 1;
    box.forEach((value, k) => (sides[k].value = value));
    Object.assign(find("box").style, {
      left: `${(100 * x0) / width}%`, top: `${(100 * y0) / height}%`,
      width: `${(100 * (x1 - x0)) / width}%`, height: `${(100 * (y1 - y0)) / height}%`,
    });
    const held = sum(at, box), area = ((x1 - x0) * (y1 - y0)) / (width * height);
    const share = score ? `${((100 * held) / score).toFixed(1)} % of the score, ` : "";
    find("sum").textContent =
      `The box holds ${share}${held.toPrecision(4)} of ${score.toPrecision(4)}, on ${(100 * area).toFixed(1)} % of the image.`;
  }

  // Python hears of a change when it is done, the page at once.
  function change(name, value, done) {
    model.set(name, value);
    draw();
    if (done) model.save_changes();
  }
  const clamp = (value, low, high) => Math.min(Math.max(Math.round(value) || 0, low), high);
  for (const [input, name] of [[fade, "fade"], [layer, "layer"]]) {
    input.oninput = () => change(name, Number(input.value), false);
    input.onchange = () => change(name, Number(input.value), true);
  }
  sides.forEach((input, k) => {
    input.min = k < 2 ? 0 : 1;
    input.max = [width - 1, height - 1, width, height][k];
    input.onchange = () => {
      const box = [...model.get("box")], far = k < 2 ? k + 2 : k - 2;
      box[k] = clamp(Number(input.value), Number(input.min), Number(input.max));
      if (box[k % 2] >= box[2 + (k % 2)]) box[far] = k < 2 ? box[k] + 1 : box[k] - 1;
      change("box", box, true);
    };
  });

  let start = null;
  function point(event) {
    const frame = stage.getBoundingClientRect();
    return [((event.clientX - frame.left) / frame.width) * width, ((event.clientY - frame.top) / frame.height) * height];
  }
  function drag(event, done) {
    if (!start) return;
    const [x, y] = point(event), [a, b] = start;
    const left = clamp(Math.floor(Math.min(a, x)), 0, width - 1), top = clamp(Math.floor(Math.min(b, y)), 0, height - 1);
    const right = clamp(Math.ceil(Math.max(a, x)), left + 1, width);
    change("box", [left, top, right, clamp(Math.ceil(Math.max(b, y)), top + 1, height)], done);
  }
  stage.onpointerdown = (event) => {
    start = point(event);
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  };
  stage.onpointermove = (event) => drag(event, false);
  stage.onpointerup = (event) => {
    drag(event, true);
    start = null;
  };
  stage.onpointercancel = () => (start = null);

  model.on("change:fade change:layer change:box", draw);
  draw();
  return () => urls.forEach((url) => url && URL.revokeObjectURL(url));
}

export default { render };

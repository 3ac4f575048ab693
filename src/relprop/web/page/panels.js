// What is said beside the maps: classes, layers, conservation, other methods.
import { at, legend, make, meter, number, percent, setImage } from "./dom.js";

const small = (v) => (v === null ? "not a number" : v === 0 ? "0" : v.toExponential(1));

// Each class with a button that explains it, and one that asks why not it: choose(target, against).
export function showClasses(found, against, choose) {
  at("top").hidden = false;
  at("top").replaceChildren(...found.top.map(({ index, name, probability }) => {
    const item = make("li");
    const button = make("button", "", { type: "button", className: "class" });
    button.append(make("span", name), make("span", percent(probability), { className: "value" }), meter(100 * probability));
    if (index === found.target) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => choose(index, null));
    item.append(button);
    if (index !== found.target) {
      const versus = make("button", "rather than", { type: "button", className: "versus" });
      versus.setAttribute("aria-label", `Why ${found.top.find((one) => one.index === found.target)?.name ?? "this class"} rather than ${name}`);
      versus.setAttribute("aria-pressed", String(index === against));
      versus.addEventListener("click", () => choose(found.target, index === against ? null : index));
      item.append(versus);
    }
    return item;
  }));
}

export function showVerdict(found) {
  const { conservation: stated } = found.conservation;
  const statement = (good, text) => make("span", `${text[0].toUpperCase()}${text.slice(1)}. `, { className: good ? "good" : "bad" });
  at("headline").textContent = `${found.class}${found.probability === null ? `: ${number(found.score)}` : `, ${percent(found.probability)}`}`;
  at("verdict").replaceChildren(
    `Relevance sums to ${number(found.sum)} of ${number(found.score)}. `,
    statement(stated.no_leak, stated.leak_text),
    statement(stated.conserves_score, stated.score_text),
  );
}

export function showLayers(found) {
  const slider = at("depth");
  const keep = Number(slider.max) === found.layers.length - 1 ? slider.value : 0;
  slider.max = found.layers.length - 1;
  slider.value = keep;
  slider.oninput = () => {
    const layer = found.layers[Number(slider.value)];
    setImage(at("layer"), layer.image, `Relevance at ${layer.name} over the image`);
    at("layer-name").textContent = layer.name === "input" ? "the image" : layer.name;
    at("layer-size").textContent = layer.size;
    at("layer-sum").textContent = number(layer.sum);
    at("depth-label").textContent = `Layer ${Number(slider.value) + 1} of ${found.layers.length}`;
    slider.setAttribute("aria-valuetext", layer.name);
  };
  slider.oninput();
}

export function showConservation(table) {
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

// The first two are those of the large maps.
export function showMethods({ panels, scale, unit }) {
  at("compared").hidden = panels.length < 3;
  at("methods").replaceChildren(...panels.map(({ name, image, alt, note }) => {
    const figure = make("figure");
    const img = make("img");
    if (image) setImage(img, image, alt);
    const caption = make("figcaption");
    caption.append(make("strong", name), note);
    figure.append(image ? img : make("div", "no map", { className: "missing" }), caption);
    return figure;
  }));
  at("methods-legend").replaceChildren(legend(scale, unit));
}

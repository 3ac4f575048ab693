// What all parts of the page use: elements, numbers as text, colour bars.
// Text from the server is set as text, never as HTML.

export const at = (id) => document.getElementById(id);
export const make = (tag, text = "", props = {}) => Object.assign(document.createElement(tag), { textContent: text }, props);
export const copy = (id) => at(id).content.firstElementChild.cloneNode(true);
export const percent = (p) => `${(100 * p).toFixed(1)} %`;
export const number = (v) => (v === null ? "not a number" : Math.abs(v) < 1e6 ? v.toFixed(6) : v.toExponential(3));

export function setImage(img, uri, alt) {
  Object.assign(img, { src: uri, alt });
  img.classList.toggle("small", uri.startsWith("data:image/png"));
}

export function meter(width) {
  const bar = make("span", "", { className: "meter" });
  bar.style.width = `${Math.max(0, Math.min(100, width))}%`;
  return bar;
}

export function legend(scale, unit = scale.unit) {
  const bar = copy("legend-template");
  bar.querySelector(".ramp").style.background = `linear-gradient(to right, ${scale.colours.join(", ")})`;
  for (const [part, text] of Object.entries({ low: scale.low, high: scale.high, unit })) bar.querySelector(`.${part}`).textContent = text;
  return bar;
}

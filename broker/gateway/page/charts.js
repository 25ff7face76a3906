// Lines as SVG; no sizes in pixels, so that they scale with the page.
const NS = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The smallest of 1, 2, 5, 10, ... that is at least `value`.
export function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-6)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// A path through numbers; null leaves a gap.
export function path(values, x, y) {
  let text = "", isDrawing = false;
  values.forEach((value, index) => {
    if (value === null || value === undefined) { isDrawing = false; return; }
    text += `${isDrawing ? "L" : "M"}${x(index).toFixed(1)},${y(value).toFixed(1)}`;
    isDrawing = true;
  });
  return text;
}

// Milliseconds over time: `points` with `at` (seconds) and the fields named in `lines`.
export function latencyChart(holder, points, lines, seconds) {
  const width = Math.max(320, holder.clientWidth || 800), height = 170, left = 56, bottom = 20;
  const end = points.length ? points[points.length - 1].at : Date.now() / 1000;
  const shown = points.filter((point) => point.at >= end - seconds);
  const top = roundUp(Math.max(1, ...shown.flatMap((point) => lines.map((name) => point[name]))));
  const x = (at) => left + (width - left - 8) * (1 - (end - at) / seconds);
  const y = (value) => 8 + (height - bottom - 8) * (1 - value / top);
  const svg = element("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Latency of the last ${Math.round(seconds / 60)} minutes, at most ${top} ms`,
  });
  for (const part of [0, 0.5, 1]) {
    const value = top * part;
    svg.append(element("line", { class: "axis", x1: left, x2: width - 8, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value} ms`));
  }
  for (let minutes = 0; minutes * 60 <= seconds; minutes += seconds <= 120 ? 0.5 : seconds / 300) {
    const at = end - minutes * 60;
    const text = minutes ? `−${minutes} min` : "now";
    svg.append(element("text", { x: x(at), y: height - 4, "text-anchor": minutes ? "middle" : "end" }, text));
  }
  for (const name of lines) {
    const values = shown.map((point) => point[name]);
    svg.append(element("path", { class: `line ${name}`, d: path(values, (index) => x(shown[index].at), y) }));
  }
  holder.replaceChildren(svg);
}

// One small plot for each column of a chunk (rows of numbers).
export function chunkPlots(holder, rows) {
  const columns = rows.length ? rows[0].length : 0;
  const plots = [];
  for (let column = 0; column < columns; column += 1) {
    const values = rows.map((row) => row[column]);
    const finite = values.filter((value) => value !== null);
    const low = Math.min(...finite), high = Math.max(...finite), span = high - low || 1;
    const x = (index) => 4 + (192 * index) / Math.max(1, values.length - 1);
    const y = (value) => 56 - (44 * (value - low)) / span;
    const svg = element("svg", {
      viewBox: "0 0 200 76", role: "img",
      "aria-label": `Action ${column}, from ${low} to ${high} over ${values.length} steps`,
    });
    svg.append(element("line", { class: "axis", x1: 4, x2: 196, y1: 60, y2: 60 }));
    svg.append(element("path", { class: "line", d: path(values, x, y) }));
    const range = finite.length ? `${low.toPrecision(3)} … ${high.toPrecision(3)}` : "no number";
    svg.append(element("text", { x: 4, y: 73 }, `[${column}]  ${range}`));
    plots.push(svg);
  }
  holder.replaceChildren(...plots);
}

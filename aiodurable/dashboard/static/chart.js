// Lines over time with uPlot, in the colours of the page; drawn again when data or colours change.
(() => {
  "use strict";
  const drawn = new WeakMap();
  const HEIGHT = 190;

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim() || "#777";
  }
  function axis(size) {
    return {
      stroke: colour("soft"), font: "11px system-ui, sans-serif", size,
      grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 },
    };
  }
  function two(value) {
    return String(value).padStart(2, "0");
  }
  function clock(seconds) {
    const at = new Date(seconds * 1000);
    return `${two(at.getHours())}:${two(at.getMinutes())}`;
  }
  function options(element, data) {
    return {
      width: Math.max(element.clientWidth, 200),
      height: HEIGHT,
      legend: { live: true },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: (_, least, most) => [0, Math.max(1, most * 1.1)] } },
      axes: [
        { ...axis(28), values: (_, moments) => moments.map(clock) },
        { ...axis(44), values: (_, numbers) => numbers.map((number) => number.toLocaleString()) },
      ],
      series: [
        { label: "at", value: (_, seconds) => (seconds === null ? "–" : clock(seconds)) },
        ...data.lines.map((line, index) => ({
          label: line.name,
          stroke: colour(line.name),
          width: 1.8,
          // A pattern for each line: colour alone says nothing to some people.
          dash: [[], [6, 3], [2, 3], [8, 3, 2, 3]][index % 4],
          points: { show: false },
        })),
      ],
    };
  }
  function draw(element, force) {
    const before = drawn.get(element);
    const text = element.dataset.chart;
    if (!force && before && before.text === text) return;
    const data = JSON.parse(text);
    const columns = [data.at, ...data.lines.map((line) => line.values)];
    const names = data.lines.map((line) => line.name).join();
    if (!force && before && before.names === names) {
      before.plot.setData(columns);
      drawn.set(element, { ...before, text });
      return;
    }
    if (before) before.plot.destroy();
    element.replaceChildren();
    drawn.set(element, { text, names, plot: new uPlot(options(element, data), columns, element) });
  }
  function all(force = false) {
    for (const element of document.querySelectorAll("[data-chart]")) draw(element, force);
  }
  document.addEventListener("aiodurable:drawn", () => all());
  document.addEventListener("aiodurable:theme", () => all(true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all(true));
  let resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => all(true), 200);
  });
  all();
})();

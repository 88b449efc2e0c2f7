// Draws the graph of a thread: dagre lays it out, our own SVG shows it. Text becomes text nodes only.
(() => {
  "use strict";
  const space = "http://www.w3.org/2000/svg";
  const marks = { done: "✓", running: "▶", failed: "✕", waiting: "?", pending: "…" };
  let laidOut = "";

  function make(name, attributes, ...children) {
    const element = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== null) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  // Control, invisible and bidirectional characters as codes, as the server shows them.
  function visible(text) {
    return String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/gu, (character) => {
      const code = character.codePointAt(0).toString(16);
      return `\\u${code.padStart(4, "0")}`;
    });
  }
  function short(text, most = 26) {
    const shown = [...visible(text)];
    return shown.length > most ? `${shown.slice(0, most - 1).join("")}…` : shown.join("");
  }
  function seconds(value) {
    if (value === null || value === undefined) return "";
    if (value < 1) return `${Math.round(value * 1000)} ms`;
    if (value < 60) return `${value.toFixed(1)} s`;
    return window.aiodurable.age(value).replace(" ago", "");
  }
  function note(node) {
    const parts = [];
    if (node.count > 1) parts.push(`${node.count}×`);
    if (node.count > 0) parts.push(seconds(node.seconds));
    if (node.kind === "subgraph") parts.push("open +");
    return parts.filter(Boolean).join(" · ");
  }

  // From left to right where that fits, as people read; else from top to bottom.
  function layout(data, width) {
    const wide = ranked(data, "LR");
    return wide.graph().width <= 1.2 * width ? wide : ranked(data, "TB");
  }

  function ranked(data, rankdir) {
    const graph = new dagre.graphlib.Graph({ compound: true, multigraph: true });
    graph.setGraph({ rankdir, nodesep: 28, ranksep: rankdir === "LR" ? 44 : 34, marginx: 12, marginy: 12 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const group of data.groups) graph.setNode(group.id, { group });
    for (const node of data.nodes) {
      const small = node.kind === "start" || node.kind === "end";
      const width = small ? 56 : Math.max(96, 12 + Math.max([...short(node.label)].length * 7.4 + 30, note(node).length * 6.2 + 16));
      graph.setNode(node.id, { node, width, height: small ? 26 : 44 });
    }
    for (const item of [...data.groups, ...data.nodes]) {
      if (item.inside && graph.hasNode(item.inside)) graph.setParent(item.id, item.inside);
    }
    data.edges.forEach((edge, index) => {
      if (!graph.hasNode(edge.from) || !graph.hasNode(edge.to)) return;
      const label = short(edge.label, 18);
      graph.setEdge(edge.from, edge.to, { edge, label, width: label ? label.length * 6.2 + 8 : 0, height: label ? 14 : 0, labelpos: "c" }, String(index));
    });
    dagre.layout(graph);
    return graph;
  }

  function path(points) {
    // Rounded corners: a straight line to the middle of each segment, a curve around each point.
    const [first, ...rest] = points;
    let text = `M${first.x},${first.y}`;
    rest.forEach((point, index) => {
      const next = rest[index + 1];
      if (!next) text += `L${point.x},${point.y}`;
      else text += `Q${point.x},${point.y} ${(point.x + next.x) / 2},${(point.y + next.y) / 2}`;
    });
    return text;
  }

  function linked(item, ...children) {
    if (!item.link) return make("g", {}, ...children);
    return make("a", { href: item.link, class: "graph-link", "data-of": item.id }, ...children);
  }

  function drawNode(box) {
    const { node, x, y, width, height } = box;
    const state = marks[node.state] ? node.state : "idle";
    const small = node.kind === "start" || node.kind === "end";
    const lines = note(node);
    const shape = make("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: small ? height / 2 : 8 });
    const label = make("text", { x: marks[state] && !small ? x + 8 : x, y: lines && !small ? y - 3 : y + 4.5, class: "node-label" }, short(node.label));
    const parts = [make("title", {}, `${visible(node.label)}: ${state}`), shape];
    if (node.kind === "subgraph") parts.push(make("rect", { class: "node-inner", x: x - width / 2 + 3, y: y - height / 2 + 3, width: width - 6, height: height - 6, rx: 6 }));
    parts.push(label);
    if (marks[state] && !small) parts.push(make("text", { x: x - width / 2 + 15, y: y + 4.5, class: "node-mark" }, marks[state]));
    if (lines && !small) parts.push(make("text", { x: marks[state] ? x + 8 : x, y: y + 13, class: "node-note" }, lines));
    return make("g", { class: `graph-node node-${state} kind-${node.kind}`, "data-node": node.id }, linked(node, ...parts));
  }

  function draw(element) {
    const data = JSON.parse(element.dataset.graph);
    const graph = layout(data, element.clientWidth);
    const { width, height } = graph.graph();
    const states = Object.fromEntries(data.nodes.map((node) => [node.id, node.state]));
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "graph-drawing" });
    svg.append(make("defs", {}, make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, make("path", { d: "M0,0L8,4L0,8z", class: "arrow" }))));
    for (const group of data.groups) {
      const box = graph.node(group.id);
      if (!box) continue;
      svg.append(make("g", { class: "graph-group" },
        make("rect", { x: box.x - box.width / 2, y: box.y - box.height / 2, width: box.width, height: box.height, rx: 10 }),
        linked(group, make("text", { x: box.x - box.width / 2 + 2, y: box.y - box.height / 2 - 5, class: "group-label" }, `${short(group.label)} −`))));
    }
    for (const key of graph.edges()) {
      const found = graph.edge(key);
      const passed = states[found.edge.from] === "done" && states[found.edge.to] && states[found.edge.to] !== "idle";
      svg.append(make("path", { d: path(found.points), class: `graph-edge${found.edge.conditional ? " edge-conditional" : ""}${passed ? " edge-passed" : ""}`, "marker-end": "url(#arrow)" }));
      if (found.label) svg.append(make("text", { x: found.x, y: found.y + 4, class: "edge-label" }, found.label));
    }
    for (const node of data.nodes) svg.append(drawNode(graph.node(node.id)));
    element.replaceChildren(svg);
  }

  function redraw() {
    const element = document.getElementById("graph");
    if (!element || !element.dataset.graph) return;
    if (element.dataset.graph === laidOut && element.firstElementChild) return;
    laidOut = element.dataset.graph;
    const focused = element.contains(document.activeElement) && document.activeElement.dataset.of;
    try {
      draw(element);
    } catch (error) {
      element.replaceChildren(document.createTextNode("This graph cannot be drawn."));
      console.warn("graph:", error);
    }
    if (focused) element.querySelector(`[data-of="${CSS.escape(focused)}"]`)?.focus();
  }
  document.addEventListener("aiodurable:drawn", redraw);
  let resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => {
      laidOut = "";
      redraw();
    }, 200);
  });
})();

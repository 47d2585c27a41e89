"use strict";

// The slider, the drawing of the cell that moves with it, and the list of its round's candidates.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [slider, play, where, cell] = ["slider", "play", "where", "cell"].map((id) =>
    document.getElementById(id),
  );
  const sections = [...document.querySelectorAll("section.round")];
  const narrow = matchMedia("(max-width: 48rem)");
  const namespace = "http://www.w3.org/2000/svg";
  const kinds = {
    kept: "edge",
    removed: "removed in this round",
    dead: "cut off by what was removed",
    added: "added in this round",
  };
  const nodes = new Map();
  const edges = new Map();
  let current = 0;
  let note = null;
  let timer = null;

  function make(parent, tag, attributes = {}, text = "") {
    const made = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  // Columns from left to right on a wide screen, from top to bottom on a narrow one.
  function measures() {
    return narrow.matches
      ? { width: 104, height: 44, place: (x, y) => [y * 110, x * 84] }
      : { width: 108, height: 44, place: (x, y) => [x * 150, y * 88] };
  }

  function between(from, to, share) {
    return [from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share];
  }

  // A quadratic curve that ends at the border of the node that it leads to.
  function curve(start, middle, end, size) {
    let share = 1;
    let point = end;
    while (
      share > 0.5 &&
      Math.abs(point[0] - end[0]) < size.width / 2 + 4 &&
      Math.abs(point[1] - end[1]) < size.height / 2 + 4
    ) {
      share -= 0.005;
      point = between(between(start, middle, share), between(middle, end, share), share);
    }
    const bent = between(start, middle, share);
    return `M${start.map(Math.round)}Q${bent.map(Math.round)} ${point.map(Math.round)}`;
  }

  function nodeOf(node, size) {
    const group = make(cell.lastChild, "g");
    const shape = { x: -size.width / 2, y: -size.height / 2, height: size.height, rx: 6 };
    make(group, "rect", { ...shape, width: size.width, class: "body" });
    if (node.op !== "input") {
      const stripe = make(group, "rect", { ...shape, x: 5 - size.width / 2, width: 4, rx: 2 });
      stripe.setAttribute("y", 6 - size.height / 2);
      stripe.setAttribute("height", size.height - 12);
      stripe.style.fill = data.colours[node.op];
    }
    const longest = Math.floor((size.width - 16) / 7.2);
    const short = node.op.length > longest ? `${node.op.slice(0, longest - 1)}…` : node.op;
    make(group, "text", { y: -2, x: 4 }, short);
    make(group, "text", { y: 14, x: 4, class: "number" });
    make(group, "title");
    return group;
  }

  function draw(round) {
    const size = measures();
    // The rounds' middles lie upon each other; on a narrow screen their inputs do.
    const least = Math.min(...round.nodes.map((node) => node.x));
    const shift = narrow.matches ? data.box[0] - least : 0;
    const at = ({ x, y }) => size.place(x + shift, y);
    const places = new Map(round.nodes.map((node) => [node.id, at(node)]));
    for (const node of round.nodes) {
      if (!nodes.has(node.id)) nodes.set(node.id, nodeOf(node, size));
      const group = nodes.get(node.id);
      const [x, y] = places.get(node.id);
      group.style.transform = `translate(${x}px, ${y}px)`;
      group.setAttribute("class", node.kind);
      const said = { input: "", leaf: ", leaf", node: "", gone: ", cut off" }[node.kind];
      group.querySelector(".number").textContent = `node ${node.id}${said}`;
      group.querySelector("title").textContent = `${node.op}: node ${node.id}${said}`;
    }
    for (const [id, group] of nodes) group.toggleAttribute("hidden", !places.has(id));
    const drawn = new Set();
    for (const edge of round.edges) {
      const name = edge.ends.join("-");
      drawn.add(name);
      if (!edges.has(name)) {
        edges.set(name, make(cell.children[1], "path"));
        make(edges.get(name), "title");
      }
      const path = edges.get(name);
      const [start, end] = edge.ends.map((node) => places.get(node));
      path.setAttribute("d", curve(start, at(edge), end, size));
      path.setAttribute("class", `edge ${edge.kind}`);
      path.setAttribute("marker-end", `url(#arrow-${edge.kind})`);
      path.firstChild.textContent = `${name}: ${kinds[edge.kind]}`;
    }
    for (const [name, path] of edges) {
      if (drawn.has(name)) continue;
      path.setAttribute("class", "edge absent");
      path.firstChild.textContent = "";
    }
    const there = round.edges.filter((edge) => ["kept", "added"].includes(edge.kind));
    note.textContent = there.length ? "" : "a reference: it has no cell";
    const said = note.textContent || `The cell: ${there.map((e) => e.ends.join("-")).join(", ")}`;
    cell.setAttribute("aria-label", said);
  }

  function prepare() {
    const size = measures();
    const [[left, top], [right, bottom]] = [data.box.slice(0, 2), data.box.slice(2)].map((corner) =>
      size.place(...corner),
    );
    const [border, room] = [size.width / 2 + 4, size.height / 2 + 4];
    const [width, height] = [right - left + 2 * border, bottom - top + 2 * room];
    cell.setAttribute("viewBox", `${left - border} ${top - room} ${width} ${height}`);
    // Letters stay legible: where the screen is narrower than that, the drawing scrolls.
    cell.style.maxWidth = `${1.15 * width}px`;
    cell.style.minWidth = `${0.86 * width}px`;
    cell.replaceChildren();
    nodes.clear();
    edges.clear();
    const definitions = make(cell, "defs");
    for (const kind of Object.keys(kinds)) {
      const shape = { viewBox: "0 0 8 8", refX: 6, refY: 4, orient: "auto" };
      const units = { markerUnits: "userSpaceOnUse", markerWidth: 9, markerHeight: 9 };
      const marker = make(definitions, "marker", { ...shape, ...units, id: `arrow-${kind}` });
      make(marker, "path", { d: "M0 0L8 4L0 8Z" });
    }
    make(cell, "g");
    make(cell, "g");
    const [x, y] = [left - border + width / 2, top - room + height / 2];
    note = make(cell.children[1], "text", { x, y });
    show(current);
  }

  function show(index) {
    current = index;
    const number = data.numbers[index];
    slider.value = index;
    where.textContent = `round ${number} of ${data.numbers.at(-1)}`;
    slider.setAttribute("aria-valuetext", where.textContent);
    for (const [place, section] of sections.entries()) section.hidden = place !== index;
    draw(data.rounds[index]);
    dispatchEvent(new CustomEvent("roundshown", { detail: number }));
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  play.addEventListener("click", () => {
    if (timer !== null) {
      stop();
      return;
    }
    if (current === data.rounds.length - 1) show(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (current < data.rounds.length - 1) show(current + 1);
      if (current === data.rounds.length - 1) stop();
    }, 1400);
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  // Of one round alone there is nowhere to go.
  play.disabled = slider.disabled = data.rounds.length < 2;
  narrow.addEventListener("change", prepare);
  addEventListener("roundchosen", (event) => {
    stop();
    show(data.numbers.indexOf(event.detail));
  });

  // To the round that the address names, and to the slider, which goes on from there.
  function follow() {
    const index = sections.findIndex((section) => `#${section.id}` === location.hash);
    if (index < 0) return;
    stop();
    show(index);
    slider.focus({ preventScroll: true });
    document.getElementById("search").scrollIntoView();
  }

  for (const link of document.querySelectorAll('a[href^="#round-"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      // An address that stays the same is no news to the browser.
      if (location.hash === link.hash) follow();
      else location.hash = link.hash;
    });
  }

  document.getElementById("stage").hidden = false;
  current = Number(slider.value);
  prepare();
  addEventListener("hashchange", follow);
  follow();
})();

"use strict";

// The tips of the charts' dots, for pointers, fingers and keys. The browser's own come late, not at
// all on a phone, and for the dot alone.
(() => {
  const { points } = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  let near = null;
  let byKeys = false;

  // The round of a dot, and the text of its tip.
  function said(point) {
    return points[Number(point.dataset.point)];
  }

  function middle(point) {
    const box = point.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  }

  function nearest(dots, event) {
    let found = null;
    let least = 24; // pixels
    for (const point of dots) {
      const [x, y] = middle(point);
      const distance = Math.hypot(x - event.clientX, y - event.clientY);
      if (distance <= least) [found, least] = [point, distance];
    }
    return found;
  }

  function beside(point) {
    const [x, y] = middle(point);
    const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8);
    const fits = y + 18 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, fits ? y + 18 : y - tip.offsetHeight - 12)}px`;
  }

  function point(found, keys = false) {
    byKeys = keys;
    // A reader that speaks would begin anew with each movement.
    if (found === near) return;
    near?.classList.remove("near");
    near = found;
    tip.hidden = !near;
    if (!near) return;
    near.classList.add("near");
    tip.textContent = said(near)[1];
    beside(near);
  }

  function round(found) {
    if (found) dispatchEvent(new CustomEvent("roundchosen", { detail: said(found)[0] }));
  }

  addEventListener("roundshown", (event) => {
    for (const adopted of document.querySelectorAll('[data-kind="line"] use')) {
      adopted.classList.toggle("now", said(adopted)[0] === event.detail);
    }
  });

  for (const chart of document.querySelectorAll(".chart svg")) {
    const dots = [...chart.querySelectorAll("use[data-point]")];
    chart.addEventListener("pointermove", (event) => point(nearest(dots, event)));
    chart.addEventListener("pointerleave", () => point(null));
    chart.addEventListener("click", (event) => {
      point(nearest(dots, event));
      round(near);
    });
    // From left to right, then upwards; of dots upon each other that are one network, the topmost.
    const place = (each) => [Number(each.getAttribute("x")), -Number(each.getAttribute("y"))];
    const topmost = new Map(dots.map((each) => [each.dataset.point, each]));
    const order = [...topmost.values()].sort(
      (a, b) => place(a)[0] - place(b)[0] || place(a)[1] - place(b)[1],
    );
    const keys = {
      ArrowRight: (now) => now + 1,
      ArrowUp: (now) => now + 1,
      ArrowLeft: (now) => (now < 0 ? order.length : now) - 1,
      ArrowDown: (now) => (now < 0 ? order.length : now) - 1,
      Home: () => 0,
      End: () => order.length - 1,
    };
    // Without this, readers that speak keep the arrow keys for themselves.
    chart.setAttribute("role", "application");
    chart.setAttribute("aria-roledescription", "chart");
    chart.setAttribute("aria-describedby", "charts-help");
    chart.setAttribute("tabindex", "0");
    chart.addEventListener("keydown", (event) => {
      if (event.key === "Enter") round(near);
      const step = keys[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const next = Math.min(Math.max(step(order.indexOf(near)), 0), order.length - 1);
      order[next].scrollIntoView({ block: "nearest", inline: "nearest" });
      point(order[next], true);
    });
    chart.addEventListener("blur", () => point(null));
  }
  addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".chart svg")) point(null);
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") point(null);
  });
  // That of a box, too. Where the keys have scrolled, the dot has only moved.
  addEventListener(
    "scroll",
    () => {
      if (near && byKeys) beside(near);
      else point(null);
    },
    { capture: true, passive: true },
  );
})();

"use strict";
(() => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const themes = read("themes");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {responsive: true, displaylogo: false, modeBarButtons: [["toImage"]]};
  const boxes = [...document.querySelectorAll(".plot")];
  const drawn = new Set();
  let printing = false;

  const template = () => themes[dark.matches && !printing ? "dark" : "light"];

  function draw(box) {
    if (drawn.has(box)) return;
    drawn.add(box);
    const figure = read(box.id + "-data");
    Plotly.newPlot(box, figure.data, {...figure.layout, template: template()}, config);
    box.on("plotly_click", ({points}) => open([points[0]?.customdata].flat()[0]));
  }

  // A head's cell in any figure opens that head further down, where there is something to open.
  function open(head) {
    const place = document.querySelector(".ni-static");
    if (!place || !/^[0-9]+[.][0-9]+$/.test(head)) return;
    document.dispatchEvent(new CustomEvent("ni-head", {detail: head}));
    place.scrollIntoView();
  }

  function recolour() {
    for (const box of drawn) Plotly.relayout(box, {template: template()});
  }

  // Figures are drawn when they come near the window: a page full of them would be slow to open.
  const watch = new IntersectionObserver(entries => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watch.unobserve(entry.target);
      draw(entry.target);
    }
  }, {rootMargin: "900px"});
  boxes.forEach(box => watch.observe(box));

  // The rest follows while nothing else is to be done, so that a picture of the whole page shows every figure.
  const idle = window.requestIdleCallback ?? (next => setTimeout(next, 200));
  function drawRest() {
    const box = boxes.find(each => !drawn.has(each));
    if (!box) return;
    draw(box);
    idle(drawRest);
  }
  addEventListener("load", () => idle(drawRest));

  dark.addEventListener("change", recolour);
  addEventListener("beforeprint", () => { printing = true; boxes.forEach(draw); recolour(); });
  addEventListener("afterprint", () => { printing = false; recolour(); });

  function value(row, column) {
    const cell = row.cells[column];
    const key = cell.dataset.key ?? cell.textContent;
    return cell.classList.contains("number") ? (key === "" ? NaN : Number(key)) : key;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, {numeric: true});
  }

  // Empty cells come last in either direction.
  function sort(header) {
    const table = header.closest("table"), body = table.tBodies[0], column = header.cellIndex;
    const numeric = header.classList.contains("number");
    const first = numeric ? "descending" : "ascending";
    const direction = header.ariaSort === first ? (numeric ? "ascending" : "descending") : first;
    for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
    header.ariaSort = direction;
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map(row => [value(row, column), row]);
    rows.sort(([a], [b]) => (Number.isNaN(a) - Number.isNaN(b)) || sign * compare(a, b) || 0);
    body.append(...rows.map(([, row]) => row));
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }
})();

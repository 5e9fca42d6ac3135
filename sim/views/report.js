// The page works without this script and without its charts; what is here answers a pointer, a key or a slider.
const PHASES = ["#c9c9c9", "#f4c95d", "#f08a3c", "#d1495b", "#8d1b6d", "#35045a"];
const LIMITS = [10, 100, 300, 600, 900, Infinity]; // per mille of a link's capacity, as the words below the slider
const element = (id) => document.getElementById(id);
const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(4)));

// Lines by pool or by engine, in all charts over time at once.
const by = element("by");
by?.addEventListener("change", () => {
  for (const view of Object.values(views)) {
    try { view.signal("by", by.value).run(); } catch { /* a chart without that choice */ }
  }
  for (const item of document.querySelectorAll("[data-by]")) item.hidden = item.dataset.by !== by.value;
});

// The machine: links coloured by use at the time of the slider.
const machine = data.machine;
if (machine) {
  const slider = element("when"), told = element("wire");
  const wires = [...document.querySelectorAll("#machine .wire")];
  const mean = machine.links.map((link) => link.use.reduce((a, b) => a + b, 0) / link.use.length);
  const use = (number) => (slider.value < 0 ? mean[number] : machine.links[number].use[slider.value]);
  let chosen = null;
  const tell = () => {
    if (!chosen) return;
    const at = slider.value < 0 ? "in the mean of the run" : `at ${machine.at[slider.value]} s`;
    told.textContent = chosen.dataset.links.split(",").map((number) => {
      const link = machine.links[number];
      const who = link.who.map((n) => machine.traffic[n]);
      const more = who.length > 4 ? ` and ${who.length - 4} more` : "";
      const of = who.length ? `: ${who.slice(0, 4).join(", ")}${more}` : "";
      return `${link.name} (${link.kind}, ${link.gb} GB/s) ${at} ${(use(number) / 10).toFixed(1)} %${of}`;
    }).join("; ") + ".";
  };
  const draw = () => {
    const at = machine.at[slider.value];
    const faults = machine.faults.filter(([, from, until]) => from <= at && at < until).map(([what]) => what);
    element("when-s").textContent = slider.value < 0 ? `mean of the run, 0 to ${machine.at.at(-1)}`
      : faults.length ? `${at} (fault: ${faults.join(", ")})` : `${at}`;
    for (const wire of wires) {
      const most = Math.max(...wire.dataset.links.split(",").map(use));
      const step = LIMITS.findIndex((limit) => most < limit);
      const line = wire.querySelector(".line");
      line.style.stroke = PHASES[step];
      line.style.strokeWidth = 1 + 0.7 * step;
    }
    tell();
  };
  const choose = (wire) => {
    chosen?.classList.remove("chosen");
    chosen = wire;
    wire.classList.add("chosen");
    tell();
  };
  for (const wire of wires) {
    wire.tabIndex = wires.length > 60 ? -1 : 0;
    for (const event of ["mouseenter", "focus", "click"]) wire.addEventListener(event, () => choose(wire));
  }
  // Of many lines the arrow keys step through all, so that the Tab key leaves the map.
  if (wires.length > 60) wires[0].tabIndex = 0;
  element("machine").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = wires.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    wires[(at + step + wires.length) % wires.length].focus();
  });
  slider.addEventListener("input", draw);
  draw();
}

// A request's own causes.
const panel = element("request");
const show = (id) => {
  const found = data.requests?.find((one) => one.id === id);
  if (!found) return;
  for (const button of document.querySelectorAll("[data-request]")) {
    button.setAttribute("aria-pressed", String(button.dataset.request === String(id)));
  }
  const total = found.ms.reduce((a, b) => a + b, 0);
  const parts = found.ms.map((ms, i) => ({ ...data.causes[i], ms })).filter((one) => one.ms > 1e-6 * total);
  if (!parts.length) {
    panel.textContent = `Request ${id} had not left when the run ended: its time is charged to nothing yet.`;
    return;
  }
  panel.replaceChildren();
  const heading = document.createElement("h3");
  heading.textContent = `Request ${id}: ${short(total)} ms`;
  const bar = document.createElement("div");
  bar.className = "bar";
  const list = document.createElement("ul");
  list.className = "legend";
  for (const one of [...parts].sort((a, b) => b.ms - a.ms)) {
    const piece = document.createElement("span");
    piece.style.width = `${(100 * one.ms) / total}%`;
    piece.style.background = one.colour;
    piece.title = `${one.name}: ${short(one.ms)} ms`;
    bar.append(piece);
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = one.colour;
    const name = document.createElement("b");
    name.textContent = `${one.name} ${short(one.ms)} ms (${((100 * one.ms) / total).toFixed(0)} %)`;
    item.append(swatch, name, ` ${one.words}`);
    list.append(item);
  }
  panel.append(heading, bar, list);
};
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-request]");
  if (button) show(Number(button.dataset.request));
});
const charted = () => {
  views.requests?.addEventListener("click", (_, item) => {
    if (item?.datum?.request !== undefined) show(Number(item.datum.request));
  });
  document.body.dataset.drawn = "yes";
};

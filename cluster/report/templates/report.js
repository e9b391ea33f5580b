// Adds reading aids to a page that is complete without them: DVH read-out and toggles, and slice sliders.
(() => {
  "use strict";
  document.documentElement.classList.add("scripted");
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("report-data").textContent);

  // Paper has nothing to unfold: every reason behind the verdict is printed.
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.more").forEach((details) => { details.open = true; });
  });

  const plot = byId("dvh-plot");
  if (plot) {
    const { dose_gy: dose, dose_decimals: decimals, curves } = data.dvh;
    const LEFT = 52, RIGHT = 744, VIEW_WIDTH = 760;
    const groups = plot.querySelectorAll("g.curve");
    const rows = byId("dvh-legend").querySelectorAll("tbody tr");
    const slider = byId("dvh-dose");
    const cursor = byId("dvh-cursor");
    const write = (row, cell, text) => {
      const found = row.querySelector(cell);
      if (found) found.textContent = text();
    };
    const percent = (v) => (v === null ? "–" : v.toFixed(1));

    const read = (index) => {
      const x = LEFT + ((RIGHT - LEFT) * index) / (dose.length - 1);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.setAttribute("visibility", "visible");
      slider.value = index;
      const at = `${dose[index].toFixed(decimals)} ${data.dose_unit}`;
      byId("dvh-at").textContent = at;
      slider.setAttribute("aria-valuetext", at);
      rows.forEach((row, i) => {
        const c = curves[i];
        write(row, ".nominal", () => percent(c.nominal[index]));
        write(row, ".planned", () => percent(c.planned[index]));
        write(row, ".range", () => `${percent(c.lowest[index])} to ${percent(c.highest[index])}`);
      });
    };

    slider.addEventListener("input", () => read(Number(slider.value)));
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) * VIEW_WIDTH) / box.width;
      const index = Math.round(((x - LEFT) / (RIGHT - LEFT)) * (dose.length - 1));
      read(Math.min(Math.max(index, 0), dose.length - 1));
    });
    rows.forEach((row, i) => {
      const box = row.querySelector("input");
      box.addEventListener("change", () => groups[i].classList.toggle("off", !box.checked));
      row.addEventListener("pointerenter", () => groups[i].classList.add("lit"));
      row.addEventListener("pointerleave", () => groups[i].classList.remove("lit"));
    });
    byId("dvh-each")?.addEventListener("change", (event) => plot.classList.toggle("each-shown", event.target.checked));
    read(Number(slider.value));
  }

  document.querySelectorAll(".plane").forEach((plane) => {
    const slider = plane.querySelector("input[type=range]");
    if (!slider) return;
    const slices = plane.querySelectorAll(".panels");
    const at = plane.querySelector("output");
    slider.addEventListener("input", () => {
      slices.forEach((slice, i) => { slice.hidden = i !== Number(slider.value); });
      at.textContent = slices[Number(slider.value)].dataset.position;
      slider.setAttribute("aria-valuetext", at.textContent);
    });
    slider.setAttribute("aria-valuetext", at.textContent);
  });
})();

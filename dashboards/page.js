"use strict";
(() => {
  const find = (selector, within = document) => [...within.querySelectorAll(selector)];
  const store = document.getElementById("curves");
  const curves = store && JSON.parse(store.textContent);
  const picker = document.getElementById("highlight");

  // Colours are names of CSS variables, so a figure follows the reader's scheme.
  const palette = () => {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(name).trim();
  };
  function coloured(value, colour) {
    if (typeof value === "string") return value.startsWith("--") ? colour(value) : value;
    if (Array.isArray(value)) return value.map((one) => coloured(one, colour));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one, colour)]));
    return value;
  }

  // One trace for each state, trials parted by gaps: hundreds of traces would take seconds to draw.
  function lines(metric, lowest, trials, look) {
    const x = [], y = [], of = [];
    for (const [index, trial] of curves.trials.entries()) {
      if (!trials(trial)) continue;
      curves.metrics[metric][index].forEach((value, at) => {
        if (value === null) return;
        x.push(curves.steps[at]);
        y.push(lowest === undefined ? value : Math.max(value, lowest));
        of.push(trial.number);
      });
      x.push(null); y.push(null); of.push(null);
    }
    return { type: "scatter", x, y, customdata: of, hovertemplate: "trial %{customdata}<br>step %{x}: %{y:.4g}<extra></extra>", ...look };
  }
  function curveFigure(spec) {
    const chosen = picker ? Number(picker.value) : curves.best;
    const few = curves.trials.length * curves.steps.length < 400;
    const look = (name, colour, width, opacity) =>
      ({ name, mode: few ? "lines+markers" : "lines", line: { color: colour, width }, marker: { color: colour, size: 3 }, opacity });
    const data = ["stopped", "failed", "running", "complete"]
      .filter((state) => curves.trials.some((trial) => trial.state === state))
      .map((state) => lines(spec.curve, spec.lowest, (trial) => trial.state === state, look(state, `--${state}`, 1, curves.trials.length > 60 ? 0.3 : 0.5)));
    data.push(lines(spec.curve, spec.lowest, (trial) => trial.number === chosen, look(`trial ${chosen}`, "--best", 2.5, 1)));
    const layout = { xaxis: { title: { text: "step" } }, yaxis: { type: spec.log ? "log" : "linear" }, showlegend: false };
    return { data, layout };
  }

  function draw(chart) {
    const spec = chart.spec;
    const colour = palette();
    const { data, layout } = coloured(spec.curve ? curveFigure(spec) : spec, colour);
    const ink = colour("--muted");
    const grid = colour("--grid");
    // 10⁻⁴ in place of 100µ
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true, exponentformat: "power" };
    const full = {
      autosize: true, height: chart.clientHeight, hovermode: "closest", margin: { l: 48, r: 12, t: 12, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: colour("--ink") },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--grid"), font: { color: colour("--ink") } },
      // A finger that scrolls the page must not zoom the figure.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      ...layout,
    };
    for (const key of new Set(["xaxis", "yaxis", ...Object.keys(full)]))
      if (/^[xy]axis\d*$/.test(key)) {
        full[key] = { ...axis, ...full[key] };
        // On a phone plotly writes 0.002 beside every grid line of a log axis; powers and their halves are enough.
        if (full[key].type === "log" && !full[key].dtick) full[key] = { nticks: 6, exponentformat: "power", ...full[key] };
      }
    const config = {
      displaylogo: false, responsive: true, displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
      modeBarButtons: [["toImage", "resetScale2d"]],
    };
    Plotly.react(chart, data, full, config).then(() => { chart.dataset.drawn = "true"; });
    if (spec.curve && !chart.listens) {
      chart.listens = true;
      chart.on("plotly_click", (event) => {
        if (!picker || event.points[0].customdata === null) return;
        picker.value = event.points[0].customdata;
        picker.dispatchEvent(new Event("change"));
      });
    }
  }

  const charts = find(".chart");
  for (const chart of charts) {
    const script = chart.querySelector("script.spec");
    chart.spec = JSON.parse(script.textContent);
    script.remove();
  }
  const again = (which) => charts.filter((chart) => chart.dataset.drawn && which(chart)).forEach(draw);
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries)
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "300px" });
  // Plotly takes a while to start: the page is there to be read before.
  addEventListener("load", () => setTimeout(() => {
    const plotly = document.createElement("script");
    plotly.textContent = document.getElementById("plotly").textContent;
    document.body.append(plotly);
    charts.forEach((chart) => seen.observe(chart));
  }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => again(() => true));
  addEventListener("beforeprint", () => charts.forEach((chart) => chart.dataset.drawn || draw(chart)));
  picker?.addEventListener("change", () => again((chart) => chart.spec.curve));

  for (const gallery of find(".gallery")) {
    const slider = gallery.querySelector("input[type=range]");
    if (!slider) continue;
    const steps = slider.dataset.steps.split(" ").map(Number);
    const show = () => {
      const step = steps[Number(slider.value)];
      gallery.querySelector("output").textContent = `step ${step.toLocaleString("en")}`;
      slider.setAttribute("aria-valuetext", `step ${step}`);
      for (const card of find(".card", gallery)) {
        const frames = find("img[data-step]", card);
        const at = frames.findLastIndex((frame) => Number(frame.dataset.step) <= step);
        frames.forEach((frame, index) => { frame.hidden = index !== Math.max(at, 0); });
        card.classList.toggle("ended", Number(card.dataset.last) < step);
      }
    };
    slider.addEventListener("input", show);
    show();
  }

  for (const head of find("table.sortable th")) {
    head.querySelector("button").addEventListener("click", () => {
      const body = head.closest("table").tBodies[0];
      const down = head.getAttribute("aria-sort") !== "descending";
      find("th", head.parentElement).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[head.cellIndex];
        return "value" in cell.dataset ? (cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value)) : cell.textContent;
      };
      const order = (a, b) => (a > b ? 1 : a < b ? -1 : 0) * (down ? -1 : 1);
      body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
    });
  }
})();

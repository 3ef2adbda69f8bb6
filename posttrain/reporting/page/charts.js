const HEIGHT = 230;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function shown(value) {
  return value === null || value === undefined ? "–" : String(+value.toPrecision(4));
}

function line(u, from, to, { stroke, width = 1, dash = [] }) {
  const context = u.ctx;
  context.save();
  context.strokeStyle = stroke;
  context.lineWidth = width * devicePixelRatio;
  context.setLineDash(dash.map((size) => size * devicePixelRatio));
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
  context.restore();
}

function healthy(u, { band, limit }) {
  const { left, top, width, height } = u.bbox;
  const inside = (value) => Math.min(top + height, Math.max(top, u.valToPos(value, "y", true)));
  if (band) {
    u.ctx.save();
    u.ctx.globalAlpha = 0.14;
    u.ctx.fillStyle = colour("c3");
    u.ctx.fillRect(left, inside(band[1]), width, inside(band[0]) - inside(band[1]));
    u.ctx.restore();
  }
  if (limit && limit <= u.scales.y.max)
    line(u, [left, inside(limit)], [left + width, inside(limit)], { stroke: colour("c5"), dash: [5, 4] });
}

function faint(u, chart, names) {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(left, top, width, height);
  u.ctx.clip();
  u.ctx.globalAlpha = 0.3;
  u.ctx.lineWidth = devicePixelRatio * 0.8;
  names.forEach((name, place) => {
    if (!u.series[place + 1].show) return;
    u.ctx.strokeStyle = colour(`c${(place % 8) + 1}`);
    u.ctx.beginPath();
    chart.columns[name].forEach((value, number) => {
      if (value !== null) u.ctx.lineTo(u.valToPos(chart.columns.step[number], "x", true), u.valToPos(value, "y", true));
    });
    u.ctx.stroke();
  });
  u.ctx.restore();
}

function marked(u, events) {
  const { left, top, width, height } = u.bbox;
  for (const event of events) {
    const x = u.valToPos(event.step, "x", true);
    if (x < left || x > left + width) continue;
    line(u, [x, top], [x, top + height], { stroke: colour("c5"), width: 1.2, dash: [2, 3] });
    const size = 5 * devicePixelRatio;
    u.ctx.save();
    u.ctx.fillStyle = colour("c5");
    u.ctx.beginPath();
    u.ctx.moveTo(x - size, top);
    u.ctx.lineTo(x + size, top);
    u.ctx.lineTo(x, top + 1.4 * size);
    u.ctx.fill();
    u.ctx.restore();
  }
}

function near(u, events) {
  if (u.cursor.left === null || u.cursor.left < 0) return [];
  return events.filter((event) => Math.abs(u.valToPos(event.step, "x") - u.cursor.left) < 12);
}

function options(chart, events, width, smooth, told) {
  const names = Object.keys(chart.means);
  const axis = {
    stroke: colour("soft"),
    grid: { stroke: colour("line"), width: 0.6 },
    ticks: { stroke: colour("line"), width: 0.6 },
    font: "11px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    scales: { x: { time: false }, y: { range: (u) => bounds(chart, visible(u, chart, names)) } },
    axes: [
      { ...axis, size: 30 },
      { ...axis, size: 52, values: (u, values) => values.map(shown) },
    ],
    series: [
      { label: "step", value: (u, value) => shown(value) },
      ...names.map((name, place) => ({
        label: name,
        stroke: colour(`c${(place % 8) + 1}`),
        width: 1.6,
        spanGaps: true,
        points: { show: name.startsWith("probe/") },
        value: (u, value) => shown(value),
      })),
    ],
    legend: { markers: { width: 0, fill: (u, place) => colour(`c${((place - 1) % 8) + 1}`) } },
    cursor: { sync: { key: chart.stage }, points: { size: 6 } },
    hooks: {
      drawClear: [(u) => healthy(u, chart)],
      drawAxes: [(u) => smooth && faint(u, chart, names)],
      draw: [(u) => marked(u, events)],
      setCursor: [
        (u) => {
          told.textContent = near(u, events)
            .map((event) => `step ${event.step}: ${event.text}`)
            .join("; ");
        },
      ],
    },
  };
}

function visible(u, chart, names) {
  const { min, max } = u.scales.x;
  const inside = chart.columns.step.map((step) => min === null || (step >= min && step <= max));
  const shown = names.filter((name, place) => !u.series[place + 1] || u.series[place + 1].show);
  return shown.flatMap((name) => chart.columns[name].filter((value, number) => inside[number] && value !== null));
}

function bounds(chart, values) {
  if (!values.length) return [0, 1];
  const high = values.reduce((one, other) => Math.max(one, other));
  const marks = [...(chart.band || []), ...(chart.limit && high > chart.limit / 4 ? [chart.limit] : [])];
  const least = values.concat(marks).reduce((one, other) => Math.min(one, other));
  const most = Math.max(high, ...marks);
  const room = (most - least || Math.abs(most) || 1) * 0.06;
  return [least >= 0 && least < 0.4 * most ? Math.min(0, least) : least - room, most + room];
}

function drawCharts() {
  const { charts, events } = read("data-curves");
  const figures = charts.map((chart) => ({ chart, figure: document.querySelector(`[data-chart="${chart.name}"]`) }));
  let smooth = true;
  let drawn = [];

  function draw() {
    const hidden = new Map(drawn.map(({ plot, chart }) => [chart.name, plot.series.map((series) => series.show)]));
    drawn.forEach(({ plot, told }) => {
      plot.destroy();
      told.remove();
    });
    drawn = figures.map(({ chart, figure }) => {
      const own = chart.stage === "grpo" ? events : [];
      const told = element("p", { className: "event" });
      const columns = smooth
        ? chart.means
        : Object.fromEntries(Object.keys(chart.means).map((name) => [name, chart.columns[name]]));
      const static_ = figure.querySelector(".static");
      figure.classList.add("drawn");
      const plot = new uPlot(options(chart, own, Math.max(240, figure.clientWidth - 34), smooth, told), [
        chart.columns.step,
        ...Object.values(columns),
      ]);
      static_.after(plot.root);
      if (own.length) plot.root.after(told);
      (hidden.get(chart.name) || []).forEach((show, place) => place && !show && plot.setSeries(place, { show }));
      return { plot, told, chart, figure };
    });
  }

  const toggle = element("input", {
    type: "checkbox",
    checked: true,
    onchange: (event) => {
      smooth = event.target.checked;
      draw();
    },
  });
  const place = document.getElementById("chart-options");
  place.append(
    element(
      "label",
      {},
      toggle,
      "means of 10 rows, the rows themselves faintly behind; a click on a name hides it, a drag zooms, two clicks go back",
    ),
  );
  place.hidden = false;
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() =>
    drawn.forEach(({ plot, figure }) => {
      const width = Math.max(240, figure.clientWidth - 34);
      if (figure.clientWidth && plot.width !== width) plot.setSize({ width, height: HEIGHT });
    }),
  ).observe(document.querySelector(".charts"));
}

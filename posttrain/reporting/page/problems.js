const AT_ONCE = 40;

function explorer(place) {
  const { labels, pairs, unit } = read("data-problems");
  const rows = read("data-index");
  const names = Object.keys(labels);
  const chunks = [];
  const lowered = { short: [], full: [] };
  const chunkSize = (read("completions-0") || []).length || 1;
  const wanted = {
    text: "",
    everywhere: false,
    outcome: "",
    kind: "",
    pair: pairs[0],
    order: "",
    names,
    unfolded: false,
  };
  let found = [];
  let listed = 0;

  function written(number) {
    const chunk = Math.floor(number / chunkSize);
    chunks[chunk] ??= read(`completions-${chunk}`);
    return chunks[chunk][number % chunkSize];
  }

  function texts(number, everywhere) {
    const row = rows[number];
    lowered.short[number] ??= `${row.id}\n${row.problem}\n${row.answer}`.toLowerCase();
    if (!everywhere) return lowered.short[number];
    lowered.full[number] ??= [lowered.short[number], ...names.flatMap((name) => written(number)[name].texts)]
      .join("\n")
      .toLowerCase();
    return lowered.full[number];
  }

  function marks(row) {
    return names.map((name) => {
      const signs = row.models[name].correct.map((right) =>
        element("i", { className: right ? "right" : "wrong", textContent: right ? "✓" : "✗" }),
      );
      return element(
        "span",
        { title: `${labels[name]}: ${count(row.models[name])} of ${signs.length} right` },
        labels[name],
        " ",
        ...signs,
      );
    });
  }

  function body(number) {
    const row = rows[number];
    const columns = names.map((name) =>
      column(labels[name], row.models[name], written(number)[name], unit, wanted.unfolded),
    );
    return element(
      "div",
      { className: "body" },
      ...row.tags.map((tag) => element("span", { className: "tag", textContent: tag })),
      element("p", { className: "problem", textContent: row.problem }),
      element("p", { className: "facts", textContent: `gold ${row.answer} · ${row.id}` }),
      element("div", { className: "columns" }, ...columns),
    );
  }

  function line(number) {
    const row = rows[number];
    const text = element("span", { className: "text", textContent: row.problem });
    const summary = element("summary", {}, text, element("span", { className: "marks" }, ...marks(row)));
    const made = element("details", { className: "row", data: { problem: row.id } }, summary);
    made.addEventListener("toggle", () => made.open && made.children.length === 1 && made.append(body(number)));
    return made;
  }

  const list = element("div", { className: "rows" });
  const told = element("p", { className: "found" });
  told.setAttribute("role", "status");
  const more = element("button", { type: "button", className: "more", onclick: () => extend() });

  function extend() {
    more.remove();
    list.append(...found.slice(listed, listed + AT_ONCE).map(line));
    listed = Math.min(found.length, listed + AT_ONCE);
    more.textContent = `${(found.length - listed).toLocaleString("en")} more`;
    if (listed < found.length) list.append(more);
  }

  function update() {
    found = select(rows, wanted, texts);
    listed = 0;
    list.replaceChildren();
    told.textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} problems`;
    extend();
    cells.forEach(({ button, pair, outcome }) => pressed(button, outcome === wanted.outcome && pair === wanted.pair));
  }

  function set(key, value) {
    wanted[key] = value;
    update();
  }

  const cells = outcomeButtons(pairs, (pair, value) => {
    const again = wanted.outcome === value && wanted.pair === pair;
    wanted.pair = pair;
    controls.pair.value = String(pairs.indexOf(pair));
    controls.outcome.value = again ? "" : value;
    set("outcome", controls.outcome.value);
  });
  const controls = filterControls(rows, labels, pairs, set);
  new IntersectionObserver(([entry]) => entry.isIntersecting && extend(), { root: list }).observe(more);
  place.append(element("div", { className: "filters" }, ...Object.values(controls.shown)), told, list);
  place.hidden = false;
  update();
}

function outcomeButtons(pairs, chosen) {
  const table = document.querySelector("#problems table");
  return Object.keys(OUTCOMES)
    .filter((name) => ["gained", "lost", "right", "wrong"].includes(name))
    .flatMap((outcome, line) =>
      pairs.map((pair, place) => {
        const cell = table.tBodies[0].rows[line].cells[place + 1];
        const button = pressed(
          element("button", {
            type: "button",
            className: "count",
            textContent: cell.textContent,
            onclick: () => chosen(pair, outcome),
          }),
          false,
        );
        cell.replaceChildren(button);
        return { button, pair, outcome };
      }),
    );
}

function filterControls(rows, labels, pairs, set) {
  const later = delayed((value) => set("text", value), 120);
  const search = element("input", {
    type: "search",
    placeholder: "search problems and answers",
    oninput: (event) => later(event.target.value),
  });
  search.setAttribute("aria-label", "search");
  const everywhere = element(
    "label",
    {},
    element("input", { type: "checkbox", onchange: (event) => set("everywhere", event.target.checked) }),
    "in completions too",
  );
  const menu = (label, key, choices, read = (value) => value) => {
    const made = element(
      "select",
      { onchange: (event) => set(key, read(event.target.value)) },
      ...choices.map(([value, text]) => option(value, text)),
    );
    made.setAttribute("aria-label", label);
    return made;
  };
  const tags = [...new Set(rows.flatMap((row) => row.tags))].sort().map((tag) => [`tag:${tag}`, tag]);
  const pair = menu(
    "models to compare",
    "pair",
    pairs.map(([before, after], place) => [String(place), `${labels[before]} → ${labels[after]}`]),
    (value) => pairs[value],
  );
  const outcome = menu("outcome", "outcome", Object.entries(OUTCOMES));
  const kind = menu("kind", "kind", [["", "any kind"], ...Object.entries(KINDS), ...tags]);
  const model = menu("model", "names", [["", "any model"], ...Object.entries(labels)], (value) =>
    value ? [value] : Object.keys(labels),
  );
  const order = menu("order", "order", [
    ["", "in their order"],
    ["worse", "worst change first"],
    ["better", "best change first"],
    ["longest", "longest first"],
  ]);
  const unfold = element(
    "label",
    {},
    element("input", { type: "checkbox", onchange: (event) => set("unfolded", event.target.checked) }),
    "unfold thoughts",
  );
  return {
    pair,
    outcome,
    shown: [search, everywhere, ...(pairs.length > 1 ? [pair] : []), outcome, kind, model, order, unfold],
  };
}

function delayed(act, ms) {
  let waiting;
  return (value) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => act(value), ms);
  };
}

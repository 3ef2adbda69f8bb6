const AT_ONCE = 40;
const HELD_OUT = "held out";

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
    if (rows.some((row) => row.tags.includes(HELD_OUT))) {
      wanted.kind = again ? "" : `tag:${HELD_OUT}`;
      controls.kind.value = wanted.kind;
    }
    set("outcome", controls.outcome.value);
  });
  const controls = filterControls(rows, labels, pairs, set);
  new IntersectionObserver(([entry]) => entry.isIntersecting && extend(), { root: list }).observe(more);
  place.append(element("div", { className: "filters" }, ...Object.values(controls.shown)), told, list);
  place.hidden = false;
  update();
}

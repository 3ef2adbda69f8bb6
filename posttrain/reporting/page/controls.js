function outcomeButtons(pairs, chosen) {
  const table = document.querySelector("#problems table");
  return Object.keys(OUTCOMES)
    .filter(Boolean)
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
    kind,
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

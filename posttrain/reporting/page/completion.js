const THOUGHT_ENDS = "</think>";

function split(text) {
  const end = text.lastIndexOf(THOUGHT_ENDS);
  if (end >= 0) {
    const cut = end + THOUGHT_ENDS.length;
    return { thought: text.slice(0, cut), rest: text.slice(cut).trim() };
  }
  return text.trimStart().startsWith("<think>") ? { thought: text, rest: "" } : { thought: "", rest: text };
}

function completion(text, unfolded) {
  const { thought, rest } = split(text);
  const parts = [];
  if (thought) {
    const size = thought.length.toLocaleString("en");
    const summary = element("summary", {
      textContent: rest ? `thought, ${size} characters` : `a thought without an answer, ${size} characters`,
    });
    parts.push(
      element("details", { className: "thought", open: unfolded }, summary, element("pre", { textContent: thought })),
    );
  }
  if (rest || !thought) parts.push(element("pre", { textContent: rest || "(nothing)" }));
  return parts;
}

function facts(sample, written, number, unit) {
  const said = [`${sample.lengths[number].toLocaleString("en")} ${unit}`];
  if (!sample.finished[number]) said.push("cut off");
  if (sample.differs[number] !== null)
    said.push(`lighteval says ${sample.correct[number] ? "wrong" : "right"} (${sample.differs[number]})`);
  const rewards = written.rewards[number] || {};
  for (const [name, value] of Object.entries(rewards)) said.push(`${name} ${value === null ? "–" : +value.toFixed(3)}`);
  return said.join(" · ");
}

function column(label, sample, written, unit, unfolded) {
  const shown = element("div");
  const buttons = sample.correct.map((right, number) => {
    const button = element("button", {
      type: "button",
      textContent: `${number + 1} ${right ? "✓" : "✗"}`,
      className: right ? "right" : "wrong",
      title: `sample ${number + 1}: ${right ? "right" : "wrong"}`,
      onclick: () => show(number),
    });
    return button;
  });
  function show(number) {
    buttons.forEach((button, place) => pressed(button, place === number));
    const line = element("p", { className: "facts", textContent: facts(sample, written, number, unit) });
    shown.replaceChildren(...completion(written.texts[number], unfolded), line);
  }
  show(0);
  const head = element(
    "p",
    {},
    element("strong", { textContent: label }),
    `: ${count(sample)} of ${sample.correct.length} right`,
  );
  return element("div", {}, head, element("div", { className: "samples" }, ...buttons), shown);
}

const OUTCOMES = {
  "": "all problems",
  gained: "wrong → right",
  lost: "right → wrong",
  right: "right in both",
  wrong: "wrong in both",
  more: "more samples right",
  fewer: "fewer samples right",
};

const KINDS = {
  differs: "lighteval differs",
  cut: "cut off",
  mixed: "right and wrong samples",
  long: "the longest tenth",
};

function count(sample) {
  return sample.correct.reduce((sum, value) => sum + value, 0);
}

function mostlyRight(sample) {
  return 2 * count(sample) > sample.correct.length;
}

function outcome(row, [before, after]) {
  const was = mostlyRight(row.models[before]);
  const now = mostlyRight(row.models[after]);
  if (was === now) return now ? "right" : "wrong";
  return now ? "gained" : "lost";
}

function change(row, [before, after]) {
  const share = (sample) => count(sample) / sample.correct.length;
  return share(row.models[after]) - share(row.models[before]);
}

function longest(row, names) {
  return Math.max(...names.flatMap((name) => row.models[name].lengths));
}

function ofKind(row, kind, names, limit) {
  const samples = names.map((name) => row.models[name]);
  if (kind === "differs") return samples.some((sample) => sample.differs.some((value) => value !== null));
  if (kind === "cut") return samples.some((sample) => sample.finished.includes(0));
  if (kind === "mixed") return samples.some((sample) => count(sample) > 0 && count(sample) < sample.correct.length);
  if (kind === "long") return longest(row, names) >= limit;
  return row.tags.includes(kind.slice("tag:".length));
}

function ofOutcome(row, wanted, pair) {
  if (wanted === "more") return change(row, pair) > 0;
  if (wanted === "fewer") return change(row, pair) < 0;
  return outcome(row, pair) === wanted;
}

function longLimit(rows, names) {
  const sizes = rows.map((row) => longest(row, names)).sort((one, other) => one - other);
  return sizes[Math.floor(0.9 * sizes.length)];
}

function select(rows, wanted, texts) {
  const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
  const limit = wanted.kind === "long" ? longLimit(rows, wanted.names) : 0;
  const found = [];
  rows.forEach((row, number) => {
    if (wanted.outcome && !ofOutcome(row, wanted.outcome, wanted.pair)) return;
    if (wanted.kind && !ofKind(row, wanted.kind, wanted.names, limit)) return;
    if (words.length) {
      const text = texts(number, wanted.everywhere);
      if (!words.every((word) => text.includes(word))) return;
    }
    found.push(number);
  });
  return ordered(found, rows, wanted);
}

function ordered(found, rows, { order, pair, names }) {
  const keys = {
    "": null,
    worse: (row) => change(row, pair),
    better: (row) => -change(row, pair),
    longest: (row) => -longest(row, names),
  };
  const key = keys[order];
  return key ? found.sort((one, other) => key(rows[one]) - key(rows[other]) || one - other) : found;
}

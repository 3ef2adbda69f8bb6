const SCALE = 3;

function save(href, name) {
  element("a", { href, download: name }).click();
}

function paper(svg) {
  const copy = svg.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("font-family", "sans-serif");
  return new XMLSerializer().serializeToString(copy).replace(/var\(--\w+, (#\w+)\)/g, "$1");
}

function address(text) {
  return `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

function savePng(svg, name) {
  const box = svg.viewBox.baseVal;
  const image = new Image();
  image.onload = () => {
    const canvas = element("canvas", { width: box.width * SCALE, height: box.height * SCALE });
    const context = canvas.getContext("2d");
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    save(canvas.toDataURL("image/png"), `${name}.png`);
  };
  image.src = address(paper(svg));
}

function markdown(table) {
  const lines = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.replaceAll("|", "\\|")));
  const rule = lines[0].map((_, place) => (place ? "---:" : "---"));
  return [lines[0], rule, ...lines.slice(1)].map((line) => `| ${line.join(" | ")} |\n`).join("");
}

function saveButtons() {
  for (const figure of document.querySelectorAll("[data-figure]")) {
    const svg = figure.querySelector(".static svg");
    const name = figure.dataset.figure;
    figure.append(
      element(
        "div",
        { className: "save" },
        element("button", {
          type: "button",
          textContent: "SVG",
          title: "save as SVG",
          onclick: () => save(address(paper(svg)), `${name}.svg`),
        }),
        element("button", {
          type: "button",
          textContent: "PNG",
          title: "save as PNG",
          onclick: () => savePng(svg, name),
        }),
      ),
    );
  }
  for (const place of document.querySelectorAll("section > .scroll")) {
    const table = place.querySelector("table");
    const text = markdown(table);
    const button = element("button", { type: "button", textContent: "Markdown", title: "save the table as Markdown" });
    button.onclick = () => save(`data:text/markdown;charset=utf-8,${encodeURIComponent(text)}`, "table.md");
    place.after(element("div", { className: "save" }, button));
  }
}

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  const { data = {}, ...rest } = properties;
  Object.assign(made, rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

function pressed(button, on) {
  button.setAttribute("aria-pressed", String(on));
  return button;
}

function read(id) {
  const block = document.getElementById(id);
  return block && JSON.parse(block.textContent);
}

function option(value, text) {
  return element("option", { value, textContent: text });
}

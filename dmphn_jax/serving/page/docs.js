// Draws openapi.json.

const root = document.getElementById("docs");

function add(parent, tag, text, kind) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
}

function draw(verb, path, operation) {
  const card = add(root, "section", "", "card");
  const title = add(card, "h2");
  add(title, "span", `${verb.toUpperCase()} `, "verb");
  title.append(path);
  add(card, "p", operation.summary);
  if (operation.description) add(card, "p", operation.description, "quiet");
  const rows = [
    ...(operation.parameters || []).map((each) => [each.name, each.description]),
    ...Object.keys(operation.requestBody?.content || {}).map((kind) => ["body", kind]),
    ...Object.entries(operation.responses).map(([status, each]) => [status, each.description]),
  ];
  const table = add(card, "table");
  for (const [name, text] of rows) {
    const row = add(table, "tr");
    add(row, "th", name).scope = "row";
    add(row, "td", text);
  }
  if (operation["x-example"]) add(card, "pre", operation["x-example"]);
}

try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const api = await answer.json();
  root.replaceChildren();
  add(root, "p", api.info.description);
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [verb, operation] of Object.entries(operations)) draw(verb, path, operation);
  }
} catch (error) {
  root.textContent = `openapi.json cannot be read: ${error.message}`;
}

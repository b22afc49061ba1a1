"use strict";

const make = (tag, text = "", attributes = {}) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(text);
  return element;
};

// "0.4375 a+ b-", "1,234", "1.2e-05", "<1e-300", "+inf": figures; a cell without one is last in both orders
const FIGURE = /^<?[+-]?(inf|[\d,]*\.?\d+(e[+-]?\d+)?)( [a-z]+[+-])*$/;
const BLANK = ["", "?", "failed", "+nan", "nan"];
const figure = (text) => parseFloat(text.replaceAll(/[,<]/g, "").replace("inf", "Infinity"));

function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const text = (row) => row.cells[column].textContent.trim();
    const button = make("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const rows = [...body.rows];
      const figures = rows.every((row) => BLANK.includes(text(row)) || FIGURE.test(text(row)));
      const before = head.getAttribute("aria-sort");
      const down = before === "none" ? figures : before === "ascending";
      const compare = figures
        ? (one, other) => figure(text(one)) - figure(text(other))
        : (one, other) => text(one).localeCompare(text(other), undefined, { numeric: true });
      const blank = (row) => Number(BLANK.includes(text(row)));
      rows.sort((one, other) => blank(one) - blank(other) || (down ? -1 : 1) * (blank(one) ? 0 : compare(one, other)));
      body.append(...rows);
      for (const cell of table.tHead.rows[0].cells) cell.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

function filterable(table) {
  const label = make("label", "Filter rows ", { className: "rows" });
  const input = make("input", "", { type: "search", autocomplete: "off" });
  const output = make("output");
  input.addEventListener("input", () => {
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(input.value.toLowerCase());
    output.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  });
  label.append(input);
  table.parentElement.before(label, output);
}

function chooser(data) {
  const [form, left, right, filter, list, view] = ["chooser", "left", "right", "query-filter", "query", "query-view"]
    .map((id) => document.getElementById(id));
  const difference = (query) => query.values[right.value] - query.values[left.value];
  const judged = (label) => (label === null ? "? not judged" : label > 0 ? `● relevant (${label})` : `○ not relevant (${label})`);

  const side = (query, system) => {
    const table = make("table");
    table.append(make("caption", `${data.systems[system]}: ${data.measure} ${query.values[system].toFixed(4)}`));
    const head = table.createTHead().insertRow();
    for (const name of ["rank", "judgement", "document", "score"]) head.append(make("th", name, { scope: "col" }));
    const body = table.createTBody();
    query.top[system].forEach(([place, score, label], rank) => {
      const row = body.insertRow();
      row.className = label > 0 ? "relevant" : "other";
      const document_ = make("td", data.docs[place][0]);
      document_.append(make("small", data.docs[place][1]));
      row.append(make("th", String(rank + 1), { scope: "row" }), make("td", judged(label)), document_, make("td", String(score)));
    });
    return table;
  };

  const show = () => {
    const query = data.queries[list.value];
    view.replaceChildren();
    if (!query) return;
    const sides = make("div", "", { className: "sides" });
    sides.append(...[...new Set([left.value, right.value])].map((system) => side(query, Number(system))));
    view.append(make("h3", query.query), make("p", `Query ${query.qid}; relevant documents: ${query.relevant}`), sides);
  };

  const fill = () => {
    const wanted = filter.value.toLowerCase();
    const kept = list.value;
    const found = [...data.queries.keys()].filter((number) => `${data.queries[number].qid} ${data.queries[number].query}`.toLowerCase().includes(wanted));
    found.sort((one, other) => Math.abs(difference(data.queries[other])) - Math.abs(difference(data.queries[one])));
    list.replaceChildren(...found.map((number) => {
      const by = difference(data.queries[number]);
      return make("option", `${by < 0 ? "" : "+"}${by.toFixed(4)}  ${data.queries[number].query}`, { value: number });
    }));
    list.value = found.includes(Number(kept)) && kept !== "" ? kept : String(found[0] ?? "");
    show();
  };

  for (const [select, chosen] of [[left, data.start[0]], [right, data.start[1]]]) {
    select.append(...data.systems.map((name, number) => make("option", name, { value: number })));
    select.value = chosen;
    select.addEventListener("change", fill);
  }
  filter.addEventListener("input", fill);
  list.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  fill();
}

for (const table of document.querySelectorAll("table.sortable")) {
  sortable(table);
  if (table.tBodies[0].rows.length > 5) filterable(table);
}
const found = document.getElementById("query-data");
if (found) chooser(JSON.parse(found.textContent));

// The tables: which are shown, which rows, and in what order.
const Board = (() => {
  const FILTERS = ["model", "suite", "method", "batch"];
  const sections = [...document.querySelectorAll("section[data-table]")];
  const get = (name) => document.getElementById(`f-${name}`);
  const rowsOf = (section) => [...section.querySelectorAll("tr[data-place]")];
  let count = 0;

  for (const section of sections) {
    const table = section.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells];
    table.first = [...table.tBodies[0].rows];
    for (const line of table.first) {
      const cell = line.cells[0], run = Data.runs[count];
      line.dataset.place = count++; // rows and runs come in the same order
      cell.replaceChildren(make("a", { href: Route.row(run) }, cell.textContent));
    }
    heads.forEach((head) => head.querySelector("button").addEventListener("click", () => {
      const { query } = Route.read(), name = head.textContent, first = head.classList.contains("n") ? "descending" : "ascending";
      const turned = query.get("sort") === name && query.get("order") === first;
      Route.change({ sort: name, order: turned ? (first === "ascending" ? "descending" : "ascending") : first });
    }));
  }
  for (const name of [...FILTERS, "sort"]) get(name).addEventListener("change", () => Route.change({ [name]: get(name).value, ...(name === "sort" ? { order: "" } : {}) }));
  document.getElementById("f-clear").addEventListener("click", () => Route.change(Object.fromEntries([...FILTERS, "sort", "order"].map((name) => [name, ""]))));

  // Numbers by data-v (unknown last), everything else as text.
  function sort(section, name, order) {
    const table = section.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex((head) => head.textContent === name);
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    if (column < 0) return table.tBodies[0].append(...table.first);
    const numeric = heads[column].classList.contains("n"), way = order || (numeric ? "descending" : "ascending"), sign = way === "ascending" ? 1 : -1;
    heads[column].setAttribute("aria-sort", way);
    table.tBodies[0].append(...[...table.first].sort((a, b) => {
      const [x, y] = [a.cells[column], b.cells[column]];
      if (!numeric) return sign * x.textContent.localeCompare(y.textContent);
      if (!x.dataset.v || !y.dataset.v) return (x.dataset.v ? 0 : 1) - (y.dataset.v ? 0 : 1);
      return sign * (Number(x.dataset.v) - Number(y.dataset.v));
    }));
  }

  function options(select, values, chosen, all) {
    const listed = [...new Set(values)].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    if (chosen && !listed.includes(chosen)) listed.push(chosen);
    select.replaceChildren(new Option(all, ""), ...listed.map((value) => new Option(value, value, false, value === chosen)));
  }

  function show(state) {
    const chosen = Object.fromEntries(FILTERS.map((name) => [name, state.query.get(name) ?? ""]));
    const here = Data.runs.filter((run) => !state.board || Data.tables[run.table].board === state.board);
    const value = (run, name) => (name === "method" ? run.method : Data.tables[run.table][name]);
    for (const name of FILTERS) options(get(name), here.map((run) => value(run, name)), chosen[name], `every ${name}`);
    const heads = sections.flatMap((section) => [...section.querySelectorAll("table.sortable thead th")].map((head) => head.textContent));
    get("sort").replaceChildren(new Option("as ranked", ""), ...[...new Set(heads)].map((name) => new Option(name, name, false, name === state.query.get("sort"))));
    let found = 0, all = 0;
    for (const section of sections) {
      const table = Data.tables[Number(section.dataset.table)];
      const mine = (!state.board || table.board === state.board) && (!state.table || table.id === state.table);
      let shown = 0;
      for (const line of rowsOf(section)) {
        const run = Data.runs[Number(line.dataset.place)];
        line.hidden = !FILTERS.every((name) => !chosen[name] || value(run, name) === chosen[name]);
        if (mine) { shown += !line.hidden; all += 1; }
      }
      section.hidden = !mine || !shown;
      found += section.hidden ? 0 : shown;
      if (!section.hidden) sort(section, state.query.get("sort"), state.query.get("order"));
    }
    document.getElementById("f-count").textContent = `${found} of ${all} rows`;
  }

  return { show };
})();

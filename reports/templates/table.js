// Sorting: numbers by data-v (unknown last), everything else as text; a second click turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const numeric = head.classList.contains("n");
    const first = numeric ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? (numeric ? "ascending" : "descending") : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [a.cells[column], b.cells[column]];
      if (!numeric) return sign * x.textContent.localeCompare(y.textContent);
      if (!x.dataset.v || !y.dataset.v) return (x.dataset.v ? 0 : 1) - (y.dataset.v ? 0 : 1);
      return sign * (Number(x.dataset.v) - Number(y.dataset.v));
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}

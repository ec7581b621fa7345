// Addresses: #/BOARD/TABLE/RUN/PROBLEM?with=RUN&only=...&model=...&sort=...; each view, filter and order has one.
const Route = (() => {
  const KEPT = ["model", "suite", "method", "batch", "sort", "order"];

  function decoded(part) {
    try { return decodeURIComponent(part); } catch { return part; }
  }

  function read() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const [board, table, run, sample] = path.split("/").map(decoded);
    return { board, table, run, sample, query: new URLSearchParams(query ?? "") };
  }

  function href(parts, query) {
    const path = parts.filter((part) => part !== undefined && part !== "").map(encodeURIComponent).join("/");
    const text = new URLSearchParams(Object.entries(query ?? {}).filter(([, value]) => value)).toString();
    return `#/${path}${text ? `?${text}` : ""}`;
  }

  const path = (run) => [Data.tables[run.table].board, Data.tables[run.table].id, run.run];
  const row = (run, query) => href(path(run), query);
  const sample = (run, name, query) => href([...path(run), name], query);
  const table = (one) => href([one.board, one.id]);

  // The same view with other query values; "" takes one out.
  function change(values) {
    const { board, table, run, sample, query } = read();
    location.replace(href([board, table, run, sample], { ...Object.fromEntries(query), ...values }));
  }

  function find(board, table, run) {
    return Data.runs.find((one) => one.run === run && Data.tables[one.table].id === table && Data.tables[one.table].board === board);
  }

  return { read, href, row, sample, table, change, find, KEPT };
})();

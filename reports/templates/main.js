// Which view the address asks for.
(() => {
  const views = ["board", "row", "sample"].map((name) => document.getElementById(`view-${name}`));
  let before = "";

  function navigation(state) {
    const names = [...new Set(Data.tables.map((table) => table.board))];
    const link = (name, text) => make("a", { href: Route.href([name]), "aria-current": (state.board ?? "") === name ? "page" : null }, text);
    const count = (name) => Data.runs.filter((run) => Data.tables[run.table].board === name).length;
    document.getElementById("boards").replaceChildren(...(names.length > 1 ? [link("", "all boards")] : []), ...names.map((name) => link(name, `${name} (${count(name)})`)));
    const tables = Data.tables.filter((table) => !state.board || table.board === state.board);
    document.getElementById("tables").replaceChildren(...(tables.length > 1 ? tables : []).map((table) =>
      make("a", { href: Route.table(table), "aria-current": state.board === table.board && state.table === table.id ? "page" : null }, (names.length > 1 ? `${table.board}: ` : "") + table.heading)));
  }

  async function show() {
    const state = Route.read(), run = state.run ? Route.find(state.board, state.table, state.run) : undefined, lost = document.getElementById("lost");
    const view = run ? (state.sample ? "sample" : "row") : "board", place = [view, state.board, state.table, state.run].join("/");
    Viewer.stop();
    navigation(state);
    lost.hidden = !state.run || Boolean(run);
    lost.textContent = lost.hidden ? "" : `This page has no row ${state.run} in table ${state.table} of board ${state.board}.`;
    views.forEach((one) => { one.hidden = one.id !== `view-${view}`; });
    document.body.dataset.view = view;
    document.title = run ? `${run.label}${state.sample ? `, problem ${state.sample}` : ""}` : "dllm-bench report";
    if (view === "board") Board.show(state);
    else await Samples.show(view, run, state);
    if (before !== place) window.scrollTo(0, 0);
    before = place;
    document.body.dataset.at = location.hash; // what is shown now, for whoever waits for it
  }

  window.addEventListener("hashchange", show);
  show();
})();

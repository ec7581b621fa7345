// A row: its figures, its samples, and where it and another row disagree. A sample: what was asked, what came out, how it was written.
const Samples = (() => {
  const KINDS = [["", "all"], ["disagree", "they disagree"], ["left", "only left solves"], ["right", "only right solves"], ["both", "both solve"], ["neither", "neither solves"], ["solved", "solved"], ["unsolved", "not solved"], ["error", "ended in an error"]];
  const PAIRED = ["disagree", "left", "right", "both", "neither"];
  const nameOf = (sample) => (sample.repeat ? `${sample.doc}.${sample.repeat}` : `${sample.doc}`);
  const rowsOf = (run) => Data.runs.filter((one) => one.table === run.table);
  let turn = 0;

  function grade(sample) {
    if (!sample) return make("span", { class: "badge none" }, "no sample");
    if (sample.status !== "ok") return make("span", { class: "badge void" }, sample.status);
    if (sample.correct === null) return make("span", { class: "badge none" }, "not graded");
    const how = ["passed", "failed", "not_run"].includes(sample.grading) ? "" : ` (${sample.grading})`;
    return make("span", { class: `badge ${sample.correct ? "good" : "bad"}` }, (sample.correct ? "\u2713 solved" : "\u2717 not solved") + how);
  }

  // The row to compare with: the one asked for, else the baseline, else any other; "none" is none.
  function other(run, state) {
    const asked = state.query.get("with"), rows = rowsOf(run).filter((one) => one !== run);
    if (asked === "none") return null;
    return rows.find((one) => one.run === asked) ?? rows.find((one) => one.baseline) ?? rows[0] ?? null;
  }

  function fits(kind, [left, right]) {
    const [a, b] = [left.correct === true, right?.correct === true];
    if (PAIRED.includes(kind) && !right) return false;
    switch (kind) {
      case "disagree": return a !== b;
      case "left": return a && !b;
      case "right": return b && !a;
      case "both": return a && b;
      case "neither": return !a && !b;
      case "solved": return a;
      case "unsolved": return !a;
      case "error": return left.status !== "ok" || (right && right.status !== "ok");
      default: return true;
    }
  }

  async function pairs(run, rival) {
    const [mine, theirs] = await Promise.all([Store.load(run.samples), rival ? Store.load(rival.samples) : []]);
    const known = new Map(theirs.map((sample) => [nameOf(sample), sample]));
    return mine.map((sample) => [sample, known.get(nameOf(sample))]);
  }

  function crumbs(run, ...more) {
    const table = Data.tables[run.table];
    return make("p", { class: "crumbs" }, make("a", { href: Route.href([table.board]) }, table.board), " \u203a ", make("a", { href: Route.table(table) }, table.heading), ...more.flatMap((part) => [" \u203a ", part]));
  }

  function rival(run, chosen) {
    const rows = rowsOf(run).filter((one) => one !== run);
    const select = make("select", { id: "s-with", onchange: () => Route.change({ with: select.value }) },
      make("option", { value: "none" }, "no other row"), rows.map((one) => make("option", { value: one.run, selected: one === chosen }, one.label + (one.baseline ? " (baseline)" : ""))));
    return make("label", null, "beside ", select);
  }

  function chips(list, kind, paired, href) {
    return make("p", { class: "chips" }, KINDS.filter(([name]) => paired || !PAIRED.includes(name)).map(([name, text]) => {
      const count = list.filter((pair) => fits(name, pair)).length;
      return make("a", { href: href(name), "data-kind": name || "all", "aria-current": name === kind ? "true" : null }, `${text} `, make("b", null, `${count}`));
    }));
  }

  function figures(run) {
    const line = document.querySelector(`tr[data-place="${Data.runs.indexOf(run)}"]`), heads = [...line.closest("table").tHead.rows[0].cells];
    return make("dl", { class: "figures" }, heads.slice(1).map((head, at) => make("div", { title: head.title }, make("dt", null, head.textContent), make("dd", { class: line.cells[at + 1].className }, line.cells[at + 1].textContent || "\u2013"))));
  }

  const short = (text) => (text === null || text === undefined ? "" : text.trim().length > 60 ? `${text.trim().slice(0, 60)}\u2026` : text.trim());
  const answer = (sample) => short(sample?.answer ?? sample?.text);
  const time = (sample) => (sample?.seconds ? `${(1000 * sample.seconds).toFixed(0)}` : "");

  function list(run, chosen, shown, query) {
    const two = (heading, cell, kind) => [make("th", { class: kind }, heading), ...(chosen ? [make("th", { class: kind }, "right")] : [])];
    const lines = shown.map(([left, right]) => {
      const both = (cell, kind) => [make("td", { class: kind }, cell(left)), ...(chosen ? [make("td", { class: kind }, cell(right))] : [])];
      const link = make("a", { href: Route.sample(run, nameOf(left), query) }, `#${nameOf(left)}`);
      return make("tr", { "data-doc": nameOf(left) }, make("td", null, link), both(grade, "v"), both((one) => make("code", null, answer(one)), "wide"), both((one) => `${one?.nfe ?? ""}`, "n"), both(time, "n"));
    });
    const heads = make("tr", null, make("th", null, "problem"), two(chosen ? "left" : "verdict"), two(chosen ? "answer: left" : "answer", 0, "wide"), two(chosen ? "NFE: left" : "NFE", 0, "n"), two(chosen ? "ms: left" : "ms", 0, "n"));
    return make("div", { class: "scroll" }, make("table", { id: "s-list" }, make("thead", null, heads), make("tbody", null, lines)));
  }

  function row(run, chosen, list_, state) {
    const kind = state.query.get("only") ?? "", query = Object.fromEntries(state.query);
    const shown = list_.filter((pair) => fits(kind, pair));
    document.getElementById("view-row").replaceChildren(
      crumbs(run, run.label),
      make("h2", null, run.label, run.baseline ? make("small", null, "baseline") : null),
      run.verdict ? make("p", { class: `verdict ${run.tone}` }, run.verdict) : "",
      figures(run),
      make("details", null, make("summary", null, "Settings and command"), make("p", null, run.settings), make("p", null, make("code", null, run.command))),
      make("h3", null, "Samples"),
      make("div", { class: "controls" }, rival(run, chosen)),
      chosen ? make("p", { class: "note" }, make("b", null, "left: "), run.label, make("b", null, " right: "), chosen.label) : "",
      chips(list_, kind, Boolean(chosen), (name) => Route.row(run, { ...query, only: name })),
      shown.length ? list(run, chosen, shown, query) : make("p", { class: "note" }, list_.length ? "No sample is of this kind." : "No sample of this row is on this page."),
    );
  }

  function block(heading, text, lacking, open = true) {
    const known = text !== null && text !== undefined;
    return make("details", { open }, make("summary", null, heading), known ? make("pre", null, text) : make("p", { class: "note" }, lacking));
  }

  async function asked(run, sample) {
    const table = Data.tables[run.table];
    const lacking = "Not stored with the run. `bench view` shows it where the suite is installed.";
    if (!table.questions) return [block("Prompt", null, lacking), block("Reference", null, lacking, false)];
    try {
      const { problem, documents } = await Store.load(table.questions), found = documents[sample.doc] ?? {};
      return [block("Prompt", found.prompt, problem ?? "The installed suite has no such prompt."), block("Reference", found.reference, problem ?? "The suite has no reference for this problem.", false)];
    } catch (error) {
      return [block("Prompt", null, error.message), block("Reference", null, error.message, false)];
    }
  }

  function made(run, sample, side) {
    if (!sample) return make("article", null, make("h3", null, run.label), make("p", { class: "note" }, "This row has no sample of this problem."));
    const program = block("Program", sample.program, "Not stored: there is none, or it holds a third party's prompt.", sample.program !== null);
    return make("article", { "data-side": side }, make("h3", null, run.label, " ", grade(sample)), block("Text", sample.text, "Nothing was decoded."),
      sample.answer === null ? "" : block("Answer that was graded", sample.answer, ""), sample.program === null && sample.answer !== null ? "" : program, sample.error ? block("Error", sample.error, "") : "");
  }

  async function sample(run, chosen, list_, state, mine) {
    const kind = state.query.get("only") ?? "", query = Object.fromEntries(state.query), at = list_.findIndex(([one]) => nameOf(one) === state.sample);
    const texts = document.getElementById("s-texts"), head = document.getElementById("s-head");
    if (at < 0) {
      head.replaceChildren(crumbs(run, make("a", { href: Route.row(run, query) }, run.label)), make("p", { class: "note" }, `This page holds no problem ${state.sample} of this row.`));
      texts.replaceChildren();
      return Viewer.show([]);
    }
    const [left, right] = list_[at], shown = list_.filter((pair) => fits(kind, pair));
    const before = list_.slice(0, at).filter((pair) => fits(kind, pair)).pop(), after = list_.slice(at + 1).find((pair) => fits(kind, pair));
    const turnTo = (pair, text, id) => (pair ? make("a", { class: "button", id, href: Route.sample(run, nameOf(pair[0]), query) }, text) : make("span", { class: "button off" }, text));
    const prompts = await asked(run, left);
    if (mine !== turn) return;
    head.replaceChildren(
      crumbs(run, make("a", { href: Route.row(run, query) }, run.label), `problem ${state.sample}`),
      make("div", { class: "controls" }, make("h2", null, `Problem ${state.sample}`), turnTo(before, "\u2190 previous", "s-before"), turnTo(after, "next \u2192", "s-after"),
        make("span", { class: "note" }, `${shown.length} of ${list_.length} samples: ${(KINDS.find(([name]) => name === kind) ?? KINDS[0])[1]}`), rival(run, chosen)));
    texts.replaceChildren(...prompts, made(run, left, "left"), ...(chosen ? [made(chosen, right, "right")] : []));
    Viewer.show([[run, left], ...(chosen ? [[chosen, right]] : [])]);
  }

  async function show(view, run, state) {
    const mine = ++turn, chosen = other(run, state);
    let found;
    try {
      found = await pairs(run, chosen);
    } catch (error) {
      const place = document.getElementById(view === "row" ? "view-row" : "s-head");
      if (mine === turn) place.replaceChildren(crumbs(run, run.label), make("p", { class: "note" }, error.message));
      return;
    }
    if (mine !== turn) return;
    if (view === "row") row(run, chosen, found, state);
    else await sample(run, chosen, found, state, mine);
  }

  // The neighbour of the sample shown, for the keyboard.
  const turnTo = (id) => document.getElementById(id)?.click();
  return { show, before: () => turnTo("s-before"), after: () => turnTo("s-after") };
})();

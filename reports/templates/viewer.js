// The decode viewer: one or two stored samples of a problem, replayed side by side.
const Viewer = (() => {
  const get = (name) => document.getElementById(`v-${name}`);

  const TICKS = 240; // positions of the slider when the clock is what both sides share
  const STOPS = { forward: [[253, 231, 160], [152, 211, 190], [133, 178, 232]], confidence: [[240, 150, 95], [250, 225, 185], [205, 228, 245]] };
  let shown = [], timer = null;

  function tint(kind, share) {
    const stops = STOPS[kind], x = Math.min(Math.max(share, 0), 1) * (stops.length - 1), low = Math.min(Math.floor(x), stops.length - 2);
    return `rgb(${stops[low].map((c, k) => Math.round(c + (stops[low + 1][k] - c) * (x - low)))})`;
  }

  // [[run, sample], ...]: at most two; a sample may be missing.
  function show(sides) {
    const traced = sides.map(([, sample]) => Boolean(sample?.steps.length));
    document.getElementById("player").hidden = !traced.some(Boolean);
    get("panel-1").hidden = sides.length < 2;
    shown = sides.map(([run, sample], place) => (traced[place] ? build(place, run, sample) : empty(place, run)));
    setSpan(1);
  }

  function empty(place, run) {
    const panel = get(`panel-${place}`);
    panel.replaceChildren(make("h3", null, run.label), make("p", { class: "note" }, "No trace of this problem was stored."));
    panel.classList.remove("finished");
    return null;
  }

  function build(place, run, sample) {
    const panel = get(`panel-${place}`), title = document.createElement("h3"), state = document.createElement("p");
    const tokens = document.createElement("div"), map = document.createElement("canvas"), axis = document.createElement("p");
    title.textContent = run.label;
    state.className = "state";
    tokens.className = "tokens";
    axis.className = "axis";
    axis.textContent = "across: position in the answer; down: forward pass that wrote it";
    const boxes = sample.pieces.map((piece, at) => {
      const box = document.createElement("span");
      box.textContent = piece.replaceAll("\n", "\u23ce\n") || "\u2205";
      const sure = sample.confidence[at] >= 0 ? `, confidence ${sample.confidence[at]}%` : "";
      box.title = sample.steps[at] < 0 ? `position ${at}: never written` : `position ${at}: forward ${sample.steps[at] + 1}${sure}`;
      if (sample.late[at]) box.classList.add("late");
      return box;
    });
    tokens.append(...boxes);
    const heads = sample.blocks.map(([, start]) => {
      const head = document.createElement("div");
      head.className = "block";
      tokens.insertBefore(head, boxes[start] ?? null);
      return head;
    });
    if (heads.length) axis.textContent += "; line: written share of the block";
    panel.replaceChildren(title, state, tokens, map, axis);
    return { panel, state, boxes, heads, map, sample, forwards: sample.nfe ?? Math.max(...sample.steps) + 1, seconds: sample.seconds };
  }

  const byClock = () => get("sync").value === "clock" && shown.every((side) => !side || side.seconds);
  const longest = (field) => Math.max(...shown.filter(Boolean).map((side) => side[field]), 0);

  function setSpan(share) {
    const slider = get("at");
    slider.max = byClock() ? TICKS : longest("forwards");
    slider.value = Math.round(share * slider.max);
    draw();
  }

  function draw() {
    if (!shown.some(Boolean)) return;
    const slider = get("at"), clock = byClock(), now = Number(slider.value), moment = (longest("seconds") * now) / slider.max;
    for (const side of shown.filter(Boolean)) {
      const done = clock ? Math.min(side.forwards, Math.floor((moment / side.seconds) * side.forwards + 1e-9)) : Math.min(side.forwards, now);
      paint(side, done);
    }
    get("now").textContent = clock ? `${(1000 * moment).toFixed(0)} of ${(1000 * longest("seconds")).toFixed(0)} ms` : `forward ${now} of ${slider.max}`;
    const kind = get("colour").value, ends = kind === "forward" ? ["first forward", "last forward"] : ["0%", "100%"];
    const bar = document.createElement("i");
    bar.style.background = `linear-gradient(to right, ${[0, 0.5, 1].map((share) => tint(kind, share))})`;
    const hint = clock ? "; time within an answer is spread evenly over its forward passes" : "";
    get("legend").replaceChildren(ends[0], bar, ends[1] + hint);
  }

  function paint(side, done) {
    const { sample, boxes } = side, kind = get("colour").value;
    let written = 0;
    boxes.forEach((box, at) => {
      const step = sample.steps[at], on = step >= 0 && step < done;
      written += on;
      box.classList.toggle("u", !on);
      box.classList.toggle("new", on && step === done - 1 && done < side.forwards);
      const share = kind === "forward" ? step / Math.max(side.forwards - 1, 1) : sample.confidence[at] / 100;
      box.style.background = !on ? "" : share < 0 ? "#dfe3e8" : tint(kind, share);
    });
    sample.blocks.forEach((block, place) => head(side.heads[place], sample, block, done));
    side.panel.dataset.done = done;
    side.panel.dataset.written = written;
    side.panel.classList.toggle("finished", done >= side.forwards);
    side.state.textContent = describe(side, done, written);
    chart(side, done, kind);
  }

  function filled(sample, [, start, length], done) {
    return sample.steps.slice(start, start + length).filter((step) => step >= 0 && step < done).length;
  }

  function head(line, sample, block, done) {
    const [name, start, length] = block, count = filled(sample, block, done), bar = document.createElement("i"), label = document.createElement("b");
    const sure = sample.confidence.slice(start, start + length).filter((value, at) => value >= 0 && sample.steps[start + at] < done);
    label.textContent = name;
    bar.style.setProperty("--share", `${(100 * count) / length}%`);
    const mean = sure.length ? `, mean confidence ${Math.round(sure.reduce((sum, value) => sum + value, 0) / sure.length)}%` : "";
    line.replaceChildren(label, bar, `${count} of ${length} written${mean}`);
  }

  function describe(side, done, written) {
    const { sample } = side, parts = [`forward ${done} of ${side.forwards}`, `${written} of ${sample.pieces.length} written`];
    const window = done > 0 ? windowOf(sample.forwards, done - 1) : null;
    if (window) parts.push(`reads ${window[0]} positions + ${window[1]} cached, stores ${window[2]}`);
    if (done >= side.forwards) {
      const grade = sample.correct === null ? "not graded" : sample.correct ? "solved" : "not solved";
      parts.push(sample.status === "ok" ? grade : sample.status);
      if (sample.seconds) parts.push(`${(1000 * sample.seconds).toFixed(0)} ms`);
      if (sample.unwritten) parts.push(`${sample.unwritten} positions never written`);
    }
    return parts.join(" \u00b7 ");
  }

  function windowOf(forwards, index) {
    for (const entry of forwards) {
      if (index < entry[3]) return entry;
      index -= entry[3];
    }
    return null;
  }

  function chart(side, done, kind) {
    const { map, sample } = side, ratio = window.devicePixelRatio || 1, width = map.clientWidth, height = map.clientHeight;
    map.width = width * ratio;
    map.height = height * ratio;
    const pen = map.getContext("2d"), across = width / Math.max(sample.pieces.length, 1), down = (height - 8) / Math.max(side.forwards, 1);
    pen.scale(ratio, ratio);
    sample.steps.forEach((step, at) => {
      if (step < 0) return;
      const share = kind === "forward" ? step / Math.max(side.forwards - 1, 1) : sample.confidence[at] / 100;
      pen.fillStyle = step >= done ? "#d3d8de" : kind === "confidence" && share >= 0 ? tint(kind, share) : "#0072b2";
      pen.fillRect(at * across, 4 + step * down, Math.max(across - 0.5, 1.5), Math.max(down, 3));
    });
    pen.strokeStyle = "#009e73";
    pen.lineWidth = 1.5;
    for (const block of sample.blocks) {
      pen.beginPath();
      for (let step = 0; step <= done; step++) pen.lineTo((block[1] + filled(sample, block, step)) * across, 4 + step * down);
      pen.stroke();
    }
    pen.fillStyle = "#d55e00";
    pen.fillRect(0, Math.min(4 + done * down, height - 1.5), width, 1.5);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    get("play").textContent = "play";
  }

  function step(by) {
    const slider = get("at");
    slider.value = Number(slider.value) + by;
    draw();
    if (Number(slider.value) >= Number(slider.max)) stop();
  }

  function play() {
    if (timer) return stop();
    const slider = get("at");
    if (Number(slider.value) >= Number(slider.max)) slider.value = 0;
    get("play").textContent = "pause";
    timer = setInterval(() => step(1), Math.min(150, 6000 / Number(slider.max)));
  }

  const bind = (name, kind, act) => get(name).addEventListener(kind, act);
  bind("colour", "change", draw);
  bind("sync", "change", () => { stop(); setSpan(Number(get("at").value) / Math.max(Number(get("at").max), 1)); });
  bind("at", "input", () => { stop(); draw(); });
  bind("play", "click", play);
  bind("back", "click", () => { stop(); step(-1); });
  bind("next", "click", () => { stop(); step(1); });
  window.addEventListener("resize", draw);
  document.addEventListener("keydown", (event) => {
    if (document.body.dataset.view !== "sample" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, button, summary") && event.target.id !== "v-at") return;
    const act = { " ": play, ArrowLeft: () => { stop(); step(-1); }, ArrowRight: () => { stop(); step(1); }, p: Samples.before, n: Samples.after }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  return { show, stop };
})();

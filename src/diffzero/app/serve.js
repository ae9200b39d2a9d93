"use strict";
// The page: asks the server one photo after another and shows what it tells, line by line.
const $ = (id) => document.getElementById(id);
const make = (tag, text, cls) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text; // never as HTML: words and names are strangers'
  if (cls) e.className = cls;
  return e;
};
const percent = (p) => (100 * p >= 99.95 ? ">99.9" : 100 * p < 0.05 ? "<0.1" : (100 * p).toFixed(1));
const count = (n) => n.toLocaleString("en");
let photos = [], choices = null, now = null, stopped = false;

async function start() {
  choices = await (await fetch("/api/choices")).json();
  for (const m of choices.models.filter((m) => m.here)) $("model").add(new Option(m.name, m.name));
  for (const m of choices.methods) $("method").add(new Option(m.name, m.name));
  for (const m of choices.models.filter((m) => !m.here)) $("others").append(make("li", `${m.name}: ${m.about}`));
  for (const e of choices.examples) {
    const button = make("button", e.title);
    button.type = "button";
    button.onclick = () => tryExample(e);
    $("examples").append(button);
  }
  $("model").onchange = tellCost;
  $("method").onchange = () => { tellDraws(); tellCost(); };
  tellDraws();
  tellCost();
}

function tellDraws() {
  const method = choices.methods.find((m) => m.name === $("method").value);
  $("draws").min = method.least;
  $("draws").value = method.draws;
}

function tellCost() {
  const model = choices.models.find((m) => m.name === $("model").value);
  const method = choices.methods.find((m) => m.name === $("method").value);
  $("known").textContent = `${model.name} ${model.about}.`;
  $("cost").textContent = `${method.does} Network evaluations per photo: ${method.cost}.`;
}

function choose(files) {
  photos = [...files];
  $("chosen").textContent = photos.length ? photos.map((f) => f.name).slice(0, 5).join(", ") +
    (photos.length > 5 ? ` and ${photos.length - 5} more` : "") : "none chosen; up to 10 MB each";
}

async function tryExample(e) {
  const blob = await (await fetch(`/api/example/${e.name}`)).blob();
  choose([new File([blob], `${e.name}.png`, { type: "image/png" })]);
  $("words").value = e.words;
  $("template").value = e.template;
  ask();
}

async function ask() {
  if (now) return;
  if (!photos.length) { $("status").textContent = "Choose a photo first."; $("photos").focus(); return; }
  const wish = { words: $("words").value, model: $("model").value, method: $("method").value, draws: $("draws").value,
    template: $("template").value };
  stopped = false;
  $("answers").replaceChildren();
  let done = 0;
  const all = photos.slice();
  for (const photo of all) {
    if (stopped) break;
    $("status").textContent = `Photo ${done + 1} of ${all.length} …`;
    await one(photo, wish);
    done += 1;
  }
  $("status").textContent = stopped ? "Cancelled." : `${done} of ${all.length} photos done.`;
}

async function one(photo, wish) {
  const card = make("article");
  const image = make("img");
  image.alt = `Photo ${photo.name}`;
  image.src = URL.createObjectURL(photo);
  image.onerror = () => image.remove(); // what the browser cannot show, the server may still read
  const body = make("div");
  const title = make("h2", photo.name), cost = make("p", "", "small"), bars = make("div");
  const beside = make("div", undefined, "clip"), why = make("div");
  const notes = make("div");
  body.append(title, cost, notes, bars, beside, why);
  card.append(image, body);
  $("answers").append(card);
  let asked = wish;
  await stream("classify", photo, wish, (event) => {
    if (event.event === "waiting") cost.textContent = `waiting: ${event.before} before it`;
    if (event.event === "note") notes.append(make("p", event.text, "small"));
    if (event.event === "working") asked = { ...wish, model: event.model }; // the one that fits, if none was named
    if (event.event === "working") cost.textContent = `${event.method} on ${event.model} …`;
    if (event.event === "progress") cost.textContent = `${count(event.evals)} evaluations, ${count(event.of)} at most`;
    if (event.event === "race") {
      title.textContent = `${event.left} words left after ${event.draws} draws`;
      bars.replaceChildren(table(event.rows, "the race as it runs"));
    }
    if (event.event === "answer") {
      title.textContent = `${event.rows[0].word}: ${percent(event.rows[0].p)} %`;
      cost.textContent = `${event.method} on ${event.model}: ${count(event.evals)} evaluations, ${event.seconds} s` +
        (event.calibrated ? "" : "; probabilities are not calibrated");
      bars.replaceChildren(make("h3", "Diffusion"), table(event.rows, "words by diffusion"));
      why.replaceChildren(whyButton(photo, asked, event, why));
    }
    if (event.event === "clip") {
      beside.replaceChildren(make("h3", event.error ? "CLIP" : `CLIP (${event.model}, ${event.evals} evaluation, ${event.seconds} s)`),
        ...(event.notes || []).map((text) => make("p", text, "small")),
        event.error ? make("p", event.error, "small") : table(event.rows, "words by CLIP"));
    }
    if (event.event === "cancelled") title.textContent = "Cancelled";
    if (event.event === "error") { title.textContent = photo.name; bars.replaceChildren(make("p", event.error, "error")); cost.textContent = ""; }
  });
}

function whyButton(photo, wish, event, place) {
  const [first, second] = event.rows.map((row) => row.word);
  const button = make("button", `Why ${first} and not ${second}?`);
  button.type = "button";
  button.onclick = async () => {
    if (now) return;
    button.disabled = true;
    const quoted = [first, second].map((w) => `"${w.replaceAll('"', '""')}"`).join(",");
    await stream("explain", photo, { ...wish, words: quoted }, (told) => {
      if (told.event === "progress") button.textContent = "Looking …";
      if (told.event === "why") place.replaceChildren(...picture(told, "the map"));
      if (told.event === "attention") place.append(...(told.error ? [make("p", told.error, "small")] : picture(told, "attention")));
      if (told.event === "error") place.replaceChildren(make("p", told.error, "error"));
      if (told.event === "cancelled") { button.disabled = false; button.textContent = `Why ${first} and not ${second}?`; }
    });
  };
  return button;
}

function picture(told, what) {
  const map = make("img", undefined, "why");
  map.src = told.picture;
  map.alt = told.alt;
  const scroll = make("div", undefined, "scroll"); // the picture stays readable on a phone
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", what);
  scroll.append(map);
  return [scroll, make("p", `${told.alt} (${count(told.evals)} evaluations for ${what})`, "small")];
}

function table(rows, label) {
  const all = make("table");
  all.setAttribute("aria-label", label);
  for (const row of rows.slice(0, 10)) {
    const line = make("tr", undefined, row.left ? "left" : "");
    const name = make("th", row.word);
    name.scope = "row";
    const cell = make("td");
    cell.append(bar(row));
    const range = row.low === undefined ? "" : ` [${percent(row.low)}, ${percent(row.high)}]`;
    line.append(name, cell, make("td", row.left ? "left" : `${percent(row.p)} %${range}`));
    all.append(line);
  }
  return all;
}

function bar(row) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  svg.setAttribute("aria-hidden", "true"); // the numbers say the same
  const add = (tag, cls, set) => {
    const e = document.createElementNS(ns, tag);
    e.setAttribute("class", cls);
    for (const [k, v] of Object.entries(set)) e.setAttribute(k, v);
    svg.append(e);
  };
  add("rect", "track", { width: "100%", height: 14, rx: 3 });
  add("rect", "bar", { width: `${100 * row.p}%`, height: 14, rx: 3 });
  if (row.low !== undefined) add("line", "range", { x1: `${100 * row.low}%`, x2: `${100 * row.high}%`, y1: 7, y2: 7 });
  return svg;
}

async function stream(what, photo, wish, tell) {
  now = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("");
  $("go").disabled = true;
  $("cancel").disabled = false;
  try {
    const query = new URLSearchParams({ ...wish, job: now });
    const reply = await fetch(`/api/${what}?${query}`, { method: "POST", body: photo, headers: { "X-Diffzero": "1" } });
    if (!reply.ok) { tell({ event: "error", error: (await reply.json()).error }); return; }
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) tell(JSON.parse(line));
    }
  } catch {
    tell({ event: "error", error: "The server did not answer, or the photo is larger than it takes (10 MB)." });
  } finally {
    now = null;
    $("go").disabled = false;
    $("cancel").disabled = true;
  }
}

$("ask").onsubmit = (event) => { event.preventDefault(); ask(); };
$("cancel").onclick = () => {
  stopped = true;
  if (now) fetch(`/api/cancel?job=${now}`, { method: "POST", headers: { "X-Diffzero": "1" } });
};
$("photos").onchange = () => choose($("photos").files);
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files);
  });
}
start();

"use strict";
// Shows the episodes of a report. Every text is set as text, never as markup: what an agent wrote can do nothing here.

const $ = (id) => document.getElementById(id);
const ROW = 68; // height of a row of the list, in CSS pixels; the style says the same

function el(tag, options = {}, ...children) {
  const { on, data, ...properties } = options;
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  Object.assign(node.dataset, data);
  for (const [event, handler] of Object.entries(on || {})) node.addEventListener(event, handler);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// -- light and dark -----------------------------------------------------------------------------------

const isDark = () =>
  (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function toggleTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
}

function nameTheme() {
  $("theme").textContent = isDark() ? "Light" : "Dark";
}

// -- unpacking ----------------------------------------------------------------------------------------

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).json();
}

function canUnpack() {
  try {
    return Boolean(new DecompressionStream("deflate-raw"));
  } catch {
    return false;
  }
}

function tell(trouble) {
  $("trouble").textContent = trouble;
  $("trouble").hidden = false;
}

async function browse() {
  if (!canUnpack()) {
    tell("The episodes are in this file, compressed, and this browser can not unpack them: it knows no DecompressionStream(\"deflate-raw\"). Chromium does from version 103 on, Firefox from 113, Safari from 16.4.");
    return;
  }
  let data;
  try {
    data = await unpack($("data").textContent);
  } catch (error) {
    tell(`The episodes in this file are damaged, perhaps cut off on their way: ${error.message}`);
    return;
  }
  start(data);
}

// -- the browser --------------------------------------------------------------------------------------

const MARKS = { solved: "✓", failed: "✕", lost: "–", unknown: "?" };
const FILTERS = {
  policy: (e) => [e.policy],
  outcome: (e) => [e.outcome],
  family: (e) => [e.family],
  tool: (e) => e.steps.filter((s) => s.tool).map((s) => s.tool),
  difficulty: (e) => [String(e.difficulty)],
  cause: (e) => e.causes,
  error: (e) => e.steps.filter((s) => s.error).map((s) => s.error),
};

let systems = [], series = {}, episodes = [], shown = [], current = -1, beside = "", allOpen = null;

function start(data) {
  ({ systems, series, episodes } = data);
  for (const [name, of] of Object.entries(FILTERS)) {
    const counts = new Map();
    for (const episode of episodes) for (const value of new Set(of(episode))) counts.set(value, (counts.get(value) || 0) + 1);
    const values = [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const select = $("f-" + name);
    select.append(el("option", { value: "", textContent: "all" }));
    for (const value of values) select.append(el("option", { value, textContent: `${value} (${counts.get(value)})` }));
    select.parentElement.hidden = values.length < 2;
    select.addEventListener("change", () => filter());
  }
  $("query").addEventListener("input", () => filter());
  $("reset").addEventListener("click", clearFilters);
  $("keys").addEventListener("click", toggleKeys);
  $("list").addEventListener("scroll", drawRows, { passive: true });
  addEventListener("resize", drawRows);
  document.addEventListener("keydown", onKey);
  for (const link of document.querySelectorAll("a[data-filter]"))
    link.addEventListener("click", () => {
      clearFilters();
      const select = $("f-" + link.dataset.filter);
      if ([...select.options].some((option) => option.value === link.dataset.value)) select.value = link.dataset.value;
      filter();
    });
  $("browser").hidden = false;
  const wanted = location.hash.startsWith("#episode=") ? decodeURIComponent(location.hash.slice(9)) : null;
  filter(wanted);
  if (wanted) $("episodes").scrollIntoView();
}

function clearFilters() {
  for (const name of Object.keys(FILTERS)) $("f-" + name).value = "";
  $("query").value = "";
  filter();
}

function toggleKeys() {
  const help = $("keyhelp");
  help.hidden = !help.hidden;
  $("keys").setAttribute("aria-expanded", String(!help.hidden));
}

function textOf(episode) {
  if (episode.text === undefined) {
    const strings = (value) =>
      typeof value === "string" ? [value] : value && typeof value === "object" ? Object.values(value).flatMap(strings) : [];
    episode.text = strings(episode).join("\n").toLowerCase();
  }
  return episode.text;
}

function filter(wanted = null) {
  const id = wanted || (current >= 0 ? shown[current].id : null);
  const words = $("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = Object.entries(FILTERS).map(([name, of]) => [of, $("f-" + name).value]).filter(([, value]) => value !== "");
  shown = episodes.filter(
    (e) => chosen.every(([of, value]) => of(e).includes(value)) && words.every((word) => textOf(e).includes(word))
  );
  const number = (n) => n.toLocaleString("en");
  $("count").textContent =
    shown.length === episodes.length ? `${number(shown.length)} episodes` : `${number(shown.length)} of ${number(episodes.length)}`;
  $("space").style.height = `${Math.max(1, shown.length) * ROW}px`;
  $("list").scrollTop = 0;
  const again = shown.findIndex((e) => e.id === id);
  select(shown.length ? Math.max(0, again) : -1, { quiet: true });
}

function drawRows() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const rows = [];
  for (let index = first; index < last; index++) rows.push(row(shown[index], index));
  if (!shown.length) rows.push(el("p", { className: "empty", textContent: "No episode fits these filters." }));
  $("space").replaceChildren(...rows);
  if (current >= first && current < last) list.setAttribute("aria-activedescendant", `row-${current}`);
  else list.removeAttribute("aria-activedescendant");
}

function row(episode, index) {
  const node = el(
    "div",
    {
      className: `row ${episode.outcome}`, id: `row-${index}`, role: "option", "aria-selected": String(index === current),
      "aria-setsize": shown.length, "aria-posinset": index + 1, on: { click: () => select(index, { enter: true }) },
    },
    el("span", { className: "outcome", textContent: MARKS[episode.outcome], title: episode.outcome }),
    el("span", { className: "name", textContent: episode.family }),
    el("span", { className: "who", textContent: `${episode.policy} · ${plural(episode.steps.length, "step")}` }),
    el("span", { className: "request", textContent: episode.instruction })
  );
  node.style.transform = `translateY(${index * ROW}px)`;
  return node;
}

const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

function select(index, { enter = false, quiet = false } = {}) {
  current = index;
  const list = $("list");
  if (index >= 0) {
    const top = index * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  }
  drawRows();
  drawDetail();
  if (!quiet && index >= 0) history.replaceState(null, "", "#episode=" + encodeURIComponent(shown[index].id));
  if (enter && matchMedia("(max-width: 52rem)").matches) $("detail").scrollIntoView();
}

function drawDetail() {
  const detail = $("detail");
  if (current < 0) {
    detail.replaceChildren(el("p", { className: "empty", textContent: "Nothing to show." }));
    return;
  }
  const episode = shown[current], others = rivals(episode);
  const other = others.find((e) => e.policy === beside) || null;
  const choose = el(
    "select",
    { id: "beside", on: { change: (event) => { beside = event.target.value; drawDetail(); $("beside").focus(); } } },
    el("option", { value: "", textContent: others.length ? "nothing" : "no other episode of this task" }),
    ...others.map((e) => el("option", { value: e.policy, textContent: `${e.policy}: ${e.outcome}`, selected: e === other }))
  );
  choose.disabled = !others.length;
  detail.replaceChildren(
    el(
      "div",
      { className: "controls" },
      el("button", { type: "button", className: "back", textContent: "↑ List", on: { click: () => $("list").scrollIntoView() } }),
      el("label", {}, "Beside it ", choose)
    ),
    el("h3", { className: "request", textContent: episode.instruction }),
    el("p", {
      className: "meta",
      textContent: `${episode.task} · difficulty ${episode.difficulty} · ${episode.split} split`,
    }),
    el("details", { className: "system" }, el("summary", { textContent: "System message" }), el("p", { textContent: systems[episode.system] })),
    el("div", { className: other ? "pair" : "" }, card(episode), other && card(other))
  );
  detail.scrollTop = 0;
}

// One episode a policy of the same task: the same trial if there is one, else the first.
function rivals(episode) {
  const found = new Map();
  for (const e of episodes)
    if (e.task === episode.task && e.policy !== episode.policy && (!found.has(e.policy) || e.trial === episode.trial)) found.set(e.policy, e);
  return [...found.values()];
}

function card(episode) {
  const said = { lost: "sandbox lost", unknown: "outcome not told" }[episode.outcome] || episode.outcome;
  const word = said + (episode.cut ? ", cut off at the step limit" : "");
  return el(
    "article",
    { className: `card ${episode.outcome}`, "aria-label": `${episode.policy}: ${word}` },
    el(
      "h4",
      {},
      el("span", { className: `dot s${series[episode.policy] ?? 0}` }),
      el("span", { textContent: episode.policy }),
      el("span", { className: "badge outcome", textContent: `${MARKS[episode.outcome]} ${word}` }),
      el("span", { className: "range", textContent: `reward ${episode.reward}${episode.trial ? ` · trial ${episode.trial + 1}` : ""}` })
    ),
    el("ol", { className: "steps" }, ...episode.steps.map((s) => step(s, episode))),
    episode.failures.length
      ? el("ul", { className: "failures" }, ...episode.failures.map((line) => el("li", { textContent: line })))
      : null,
    episode.untraced
      ? el("p", { className: "range", textContent: `The last ${plural(episode.untraced, "step")} could not be retraced here.` })
      : null
  );
}

function step(s, episode) {
  const badge = (kind, text, title = "") => text && el("span", { className: `badge ${kind}`, textContent: text, title });
  const head = s.tool !== undefined ? s.tool : s.answer !== undefined ? "answer" : "unreadable";
  const lines = s.result ? s.result.split("\n").length : 0;
  return el(
    "li",
    { className: "step" + (s.label ? ` l-${s.label}` : "") },
    s.reasoning ? el("p", { className: "reasoning", textContent: s.reasoning }) : null,
    el(
      "p",
      { className: "head" },
      el("span", { className: "tool", textContent: head }),
      badge(`e-${s.effect}`, s.effect),
      badge("error", s.error),
      badge(`label l-${s.label}`, s.label, s.why || ""),
      s.regret ? badge("", `regret ${s.regret}`) : null,
      s.tokens ? el("span", { className: "range", textContent: plural(s.tokens, "token") }) : null
    ),
    s.why && s.label !== "preferred" && s.why !== episode.failures.join("; ") ? el("p", { className: "why", textContent: s.why }) : null,
    s.arguments && s.arguments !== "{}" ? code(s.arguments) : null,
    s.answer !== undefined ? el("p", { className: "answer", textContent: s.answer }) : null,
    s.unreadable !== undefined ? el("pre", { textContent: s.unreadable }) : null,
    s.result
      ? el(
          "details",
          { className: "result", open: allOpen === null ? lines <= 14 : allOpen },
          el("summary", { textContent: `${s.error ? "Error" : "Result"}, ${plural(lines, "line")}` }),
          code(s.result)
        )
      : null,
    s.changes ? el("div", { className: "changes" }, ...s.changes.map(change)) : null,
    s.notes ? el("details", { className: "notes" }, el("summary", { textContent: "Notes of the record" }), code(s.notes)) : null
  );
}

// JSON with its names, texts and numbers set apart.
function code(text) {
  const parts = text.split(/("(?:[^"\\]|\\.)*"(?:\s*:)?|-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b|\b(?:true|false|null)\b)/);
  const kind = (part) => (part.startsWith('"') ? (part.endsWith(":") ? "name" : "text") : "literal");
  return el("pre", {}, ...parts.map((part, i) => (i % 2 ? el("span", { className: kind(part), textContent: part }) : part)));
}

function change(c) {
  const cell = (value, kind) => el("td", { className: kind, textContent: value === null ? "" : value });
  return el(
    "table",
    { className: `change ${c.op}` },
    el("caption", {}, el("b", { textContent: c.op }), ` ${c.table} `, el("span", { textContent: c.key })),
    el(
      "tbody",
      {},
      ...c.columns.map(([name, before, after]) =>
        el("tr", {}, el("th", { scope: "row", textContent: name }), cell(before, "before"), cell(after, "after"))
      )
    )
  );
}

// -- keys ---------------------------------------------------------------------------------------------

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = event.target, typing = at.matches("input, select, textarea");
  if (event.key === "Escape") {
    $("list").focus();
    return;
  }
  if (typing) {
    if (at === $("query") && (event.key === "Enter" || event.key === "ArrowDown")) {
      event.preventDefault();
      $("list").focus();
    }
    return;
  }
  const inList = at === $("list"), page = Math.max(1, Math.floor($("list").clientHeight / ROW) - 1), end = shown.length - 1;
  const to = { j: current + 1, k: current - 1 }[event.key];
  const inListTo = { ArrowDown: current + 1, ArrowUp: current - 1, PageDown: current + page, PageUp: current - page, Home: 0, End: end }[event.key];
  const target = to !== undefined ? to : inList ? inListTo : undefined;
  if (target !== undefined && end >= 0) select(Math.min(end, Math.max(0, target)));
  else if (event.key === "/") $("query").focus();
  else if (event.key === "Enter" && inList) $("detail").focus();
  else if (event.key === "c") cycleBeside();
  else if (event.key === "e") {
    allOpen = !allOpen;
    drawDetail();
  } else if (event.key === "t") toggleTheme();
  else if (event.key === "?") toggleKeys();
  else return;
  event.preventDefault();
}

function cycleBeside() {
  if (current < 0) return;
  const names = ["", ...rivals(shown[current]).map((e) => e.policy)];
  beside = names[(names.indexOf(beside) + 1) % names.length];
  drawDetail();
}

$("theme").hidden = false;
$("theme").addEventListener("click", toggleTheme);
nameTheme();
if ($("data")) browse();

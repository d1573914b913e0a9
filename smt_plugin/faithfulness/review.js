"use strict";
const found = (id) => document.getElementById(id);
const choice = found("choice");
const deciding = found("deciding");
const ASIDE = 2; // records to either side that are fetched before they are asked for
let numbers = []; // the chosen records, the worst first; what is decided does not change them
let at = 0;
let decided = []; // the number, and the verdict before, of each decision that can be taken back
const fetched = new Map();

/** Make an element; what it holds is text or elements, and never markup. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function answer(path, options) {
  const response = await fetch(path, options).catch(() => {
    throw new Error("smt review does not answer any more: start it again");
  });
  const value = await response.json();
  if (!response.ok) throw new Error(value.error);
  return value;
}

function recordOf(number) {
  if (!fetched.has(number)) {
    const asked = answer(`record?number=${number}`);
    asked.catch(() => fetched.delete(number));
    fetched.set(number, asked);
  }
  return fetched.get(number);
}

const SAID = { reject: "rejected", keep: "kept", open: "" };

function showCounts({ open, reject, keep }) {
  const [left, out, kept] = [open, reject, keep].map((count) => count.toLocaleString("en"));
  found("counts").textContent = `${left} open, ${out} rejected, ${kept} kept`;
}

function showVerdict({ verdict, by, reason }) {
  found("verdict").textContent = SAID[verdict];
  found("verdict").className = verdict;
  const who = verdict !== "open" && by === "gate" ? "by the gate" : "";
  found("why").textContent = [who, reason].filter(Boolean).join(": ");
}

function showRecord(record) {
  const part = record.part ? `, part ${record.part + 1}` : "";
  const turns = record.turns.flatMap(({ role, pieces }) => [
    element("h3", {}, role),
    element(
      "div",
      { class: "text", dir: "auto" },
      ...pieces.map(([text, kind]) => (kind ? element("mark", { class: "finding", title: kind }, text) : text)),
    ),
  ]);
  const said = new Map(record.findings.map((finding) => [`${finding.kind}: ${finding.said}`, finding]));
  const findings = [...said.values()].map(({ kind, said }) => element("li", {}, `${kind}: `, element("bdi", {}, said)));
  found("record").replaceChildren(
    element("h2", {}, record.method, element("span", { class: "quiet" }, ` round ${record.round + 1}${part}`)),
    ...(record.question ? [element("h3", {}, "written for the question"), element("div", { dir: "auto" }, record.question)] : []),
    ...turns,
    element("h3", {}, findings.length ? "not in the document" : "nothing was found that the document lacks"),
    ...(findings.length ? [element("ul", {}, ...findings)] : []),
    element("h3", {}, record.id),
  );
  found("record").scrollTop = 0;
}

function showSource({ document: name, doc_id: id, source }) {
  const passage = element("mark", { id: "passage" }, source.passage ?? "");
  const leftOut = source.left_out ? `${source.left_out.toLocaleString("en")} characters farther away are not shown` : "";
  found("source").replaceChildren(
    element("h2", { dir: "auto" }, name ?? id),
    element("p", { class: "quiet" }, [source.note, leftOut].filter(Boolean).join("; ")),
    element("div", { class: "text", dir: "auto" }, source.before ?? "", passage, source.after ?? ""),
  );
  if (source.passage) passage.scrollIntoView({ block: "center" });
}

async function show() {
  const number = numbers[at];
  const of = `${numbers.length ? (at + 1).toLocaleString("en") : 0} of ${numbers.length.toLocaleString("en")}`;
  if (number === undefined) {
    found("record").replaceChildren("No record is so.");
    found("source").replaceChildren();
    showVerdict({ verdict: "open" });
  } else {
    const record = await recordOf(number);
    showRecord(record);
    showSource(record);
    showVerdict(record);
  }
  deciding.elements.reason.value = "";
  found("place").textContent = of;
  document.body.dataset.shown = number ?? "";
  for (const kept of fetched.keys()) if (!numbers.slice(Math.max(at - 20, 0), at + 20).includes(kept)) fetched.delete(kept);
  for (let step = 1; step <= ASIDE; step++)
    for (const near of [numbers[at + step], numbers[at - step]]) if (near !== undefined) recordOf(near);
}

async function go(step) {
  at = Math.min(Math.max(at + step, 0), Math.max(numbers.length - 1, 0));
  await show();
}

async function say(number, verdict, reason) {
  const record = await recordOf(number);
  const body = JSON.stringify({ number, id: record.id, verdict, reason });
  const headers = { "Content-Type": "application/json" };
  const { counts, ...held } = await answer("verdict", { method: "POST", headers, body });
  const before = { number, verdict: record.verdict, by: record.by, reason: record.reason };
  Object.assign(record, held);
  showCounts(counts);
  return before;
}

async function decide(verdict, reason = "") {
  if (numbers[at] === undefined) return;
  decided.push(await say(numbers[at], verdict, reason));
  if (at + 1 < numbers.length) await go(1);
  else await show();
}

async function undo() {
  const last = decided.at(-1);
  if (last === undefined) return;
  // What the gate had said holds again once the person's word is taken back.
  if (last.by === "gate") await say(last.number, "open", "");
  else await say(last.number, last.verdict, last.reason);
  decided.pop();
  const place = numbers.indexOf(last.number);
  if (place >= 0) at = place;
  await show();
}

async function choose() {
  const asked = new URLSearchParams(new FormData(choice));
  const { numbers: chosen, methods, kinds, counts } = await answer(`records?${asked}`);
  if (choice.elements.method.length === 1) {
    choice.elements.method.append(...methods.map((name) => element("option", {}, name)));
    choice.elements.finding.append(...kinds.map((kind) => element("option", { value: kind }, `a ${kind}`)));
  }
  [numbers, at] = [chosen, 0];
  fetched.clear();
  showCounts(counts);
  await show();
}

const KEYS = {
  j: () => go(1),
  k: () => go(-1),
  ArrowRight: () => go(1),
  ArrowLeft: () => go(-1),
  x: () => decide("reject", deciding.elements.reason.value.trim()),
  s: () => decide("keep"),
  u: undo,
};
// What is pressed while another key still has its effect waits for its turn.
let queue = Promise.resolve();
function enqueue(act) {
  queue = queue
    .then(async () => {
      await act();
      found("error").textContent = "";
    })
    .catch((error) => (found("error").textContent = error.message));
  return queue;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isField = event.target.matches("input, select");
  if (isField && event.key === "Escape") return event.target.blur();
  if (isField) return;
  const fields = { r: deciding.elements.reason, f: choice.elements.method };
  if (fields[event.key]) {
    event.preventDefault();
    fields[event.key].focus();
  } else if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    enqueue(KEYS[event.key]);
  }
});
for (const button of deciding.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    button.blur();
    enqueue(KEYS[button.dataset.key]);
  });
}
deciding.addEventListener("submit", (event) => {
  event.preventDefault();
  deciding.elements.reason.blur();
  enqueue(KEYS.x);
});
choice.addEventListener("submit", (event) => {
  event.preventDefault();
  document.activeElement.blur();
});
choice.addEventListener("input", () => enqueue(choose));
enqueue(choose);

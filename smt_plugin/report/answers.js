"use strict";
const PAGE = 20; // questions that are shown at once
const index = JSON.parse(document.getElementById("index").textContent);
const blocks = document.getElementsByClassName("block");
const form = document.querySelector("form");
const found = (id) => document.getElementById(id);
let latest = 0; // which drawing is the newest; an older one that still waits for texts gives up

/** The choice of questions: what the address says behind its #. */
const chosen = () => new URLSearchParams(location.hash.slice(1));

/** A choice as text that is the same in whichever order it was made. */
function sorted(choice) {
  const params = new URLSearchParams(choice);
  params.sort();
  return params.toString();
}

/** Make an element; what it holds is text or elements, and never markup. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Unpack the texts of a block of questions. */
async function unpack(number) {
  const packed = Uint8Array.from(atob(blocks[number].textContent), (char) => char.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

/** The numbers of the questions that have the chosen states and document. */
function matching(choice) {
  const wanted = index.arms.map(({ arm }) => choice.get(arm));
  const about = choice.get("document");
  return [...index.questions.keys()].filter((number) => {
    const [place, states] = index.questions[number];
    return (
      (about === null || index.documents[place][0] === about) &&
      wanted.every((state, arm) => !state || states[arm].includes(state))
    );
  });
}

/** All that is said in a question, its answers and about it, for the search. */
function words(question, number) {
  const answers = question.answers.flatMap((each) => each ?? []).flatMap(({ text, end }) => [text, end ?? ""]);
  const identity = index.documents[index.questions[number][0]].join("\n");
  return [question.id, identity, question.question, question.gold, ...question.options, ...answers].join("\n").toLowerCase();
}

async function containing(text, numbers, isOld) {
  const kept = [];
  let open = -1;
  let questions = [];
  for (const number of numbers) {
    const block = Math.floor(number / index.block);
    if (block !== open) {
      [open, questions] = [block, await unpack(block)];
      if (isOld()) return kept;
    }
    if (words(questions[number % index.block], number).includes(text.toLowerCase())) kept.push(number);
  }
  return kept;
}

const SIGNS = { right: "✓", wrong: "✗", nothing: "–", no_option: "?", no_verdict: "?", unknown: "·" };
const SAID = {
  right: "right",
  wrong: "wrong",
  nothing: "states nothing",
  no_option: "states no option",
  no_verdict: "the judge gave no verdict",
  unknown: "what was read is not known",
};

function mark({ read, state }, hasOptions) {
  return element("span", { class: `mark ${state}`, title: SAID[state] }, hasOptions && read ? read : SIGNS[state]);
}

function answerOf(answer, hasOptions) {
  const { text, left_out: leftOut, end, read, state, by_judge: isByJudge } = answer;
  const shown = element("div", { dir: "auto" });
  if (leftOut) {
    const cut = element("em", { class: "quiet" }, ` … ${leftOut.toLocaleString("en")} characters left out … `);
    shown.append(text, cut, end);
  } else shown.append(text || element("em", { class: "quiet" }, "(empty)"));
  const note = [" ", SAID[state], hasOptions || !read ? "" : `, read as: ${read}`, isByJudge ? ", read by the judge" : ""];
  return element("div", { class: "answer" }, element("small", {}, mark(answer, hasOptions), ...note), shown);
}

function armOf(arm, answers, hasOptions, isOpen) {
  if (!answers) return element("div", { class: "quiet" }, `${arm.name}: not asked`);
  const right = answers.filter(({ state }) => state === "right").length;
  const isKnown = answers.every(({ state }) => state !== "unknown");
  const marks = element("span", { class: "read" }, ...answers.map((answer) => mark(answer, hasOptions)));
  const score = isKnown ? ` ${right}\u00a0of\u00a0${answers.length}` : "";
  const details = element("details", {}, element("summary", {}, element("b", {}, arm.name), score, marks));
  // The texts are made when somebody looks.
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector(".answer"))
      details.append(...answers.map((answer) => answerOf(answer, hasOptions)));
  });
  details.open = isOpen;
  return details;
}

function articleOf(question, number, isOpen) {
  const [doc, identity] = index.documents[index.questions[number][0]];
  const hasOptions = question.options.length > 0;
  const options = question.options.map((option, place) => {
    const label = `(${String.fromCharCode(65 + place)}) ${option}`;
    return place === question.answer
      ? element("li", { class: "gold", dir: "auto" }, label, " ← right")
      : element("li", { dir: "auto" }, label);
  });
  const about = element("a", { href: `#${new URLSearchParams({ document: doc })}`, dir: "auto" }, identity);
  return element(
    "article",
    { "data-question": question.id },
    element("small", {}, about, ` · ${question.id}`),
    element("h2", { dir: "auto" }, question.question),
    hasOptions
      ? element("ol", {}, ...options)
      : element("p", { class: "gold", dir: "auto" }, `Right answer: ${question.gold}`),
    element("div", { class: "arms" }, ...index.arms.map((arm, place) => armOf(arm, question.answers[place], hasOptions, isOpen))),
  );
}

/** A link to the same choice, other questions of it. */
function turn(link, choice, page, isThere) {
  choice = new URLSearchParams(choice);
  choice.set("page", page + 1);
  link.href = `#${choice}`;
  link.hidden = !isThere;
}

async function draw() {
  const mine = ++latest;
  const choice = chosen();
  delete document.body.dataset.drawn;
  for (const field of form.elements) {
    if (field.type === "checkbox") field.checked = choice.has(field.name);
    else field.value = choice.get(field.name) ?? "";
  }
  const own = sorted([...choice].filter(([name]) => !["page", "order", "open"].includes(name)));
  for (const link of document.querySelectorAll(".choices a"))
    link.setAttribute("aria-current", sorted(link.hash.slice(1)) === own);

  let numbers = matching(choice);
  const text = (choice.get("text") ?? "").trim();
  if (text) {
    found("shown").textContent = "searching …";
    numbers = await containing(text, numbers, () => mine !== latest);
    if (mine !== latest) return;
  }
  if (choice.get("order") !== "asked") numbers.sort((a, b) => index.questions[b][2] - index.questions[a][2] || a - b);
  const pages = Math.max(1, Math.ceil(numbers.length / PAGE));
  const page = Math.min(pages, Math.max(1, Number(choice.get("page")) || 1)) - 1;
  const shown = numbers.slice(page * PAGE, (page + 1) * PAGE);
  const opened = new Map();
  for (const number of shown) {
    const block = Math.floor(number / index.block);
    if (!opened.has(block)) opened.set(block, await unpack(block));
  }
  if (mine !== latest) return;
  const articles = shown.map((number) =>
    articleOf(opened.get(Math.floor(number / index.block))[number % index.block], number, choice.has("open")),
  );
  document.querySelector("main").replaceChildren(...articles);
  const all = index.questions.length.toLocaleString("en");
  const about = choice.get("document");
  const of = about === null ? "" : ` about ${(index.documents.find(([doc]) => doc === about) ?? [0, about])[1]}`;
  found("shown").textContent =
    `${numbers.length.toLocaleString("en")} of ${all} questions${of}` + (pages > 1 ? `, page ${page + 1} of ${pages}` : "");
  turn(found("before"), choice, page - 1, page > 0);
  turn(found("next"), choice, page + 1, page + 1 < pages);
  document.body.dataset.drawn = numbers.length;
}

form.addEventListener("input", () => {
  const choice = chosen();
  choice.delete("page");
  for (const [name, value] of new FormData(form)) value ? choice.set(name, value) : choice.delete(name);
  if (!form.elements.open.checked) choice.delete("open");
  location.replace(`#${choice}`); // which leaves no step of typing to go back to
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", draw);
for (const link of [found("before"), found("next")]) link.addEventListener("click", () => form.scrollIntoView());

for (const [column, heading] of document.querySelectorAll("#documents th").entries()) {
  heading.addEventListener("click", () => {
    const first = column ? "descending" : "ascending";
    const sorted = heading.ariaSort !== first ? first : column ? "ascending" : "descending";
    for (const other of heading.parentElement.children) other.ariaSort = null;
    heading.ariaSort = sorted;
    const value = (row) => row.cells[column].textContent;
    const number = (row) => (value(row) ? parseFloat(value(row)) : -1);
    const order = (a, b) => (column ? number(a) - number(b) : value(a).localeCompare(value(b)));
    const sign = sorted === "ascending" ? 1 : -1;
    const body = document.querySelector("#documents tbody");
    body.append(...[...body.rows].sort((a, b) => sign * order(a, b)));
  });
}
draw();

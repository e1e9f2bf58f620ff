// The controls, and the drawing of what they choose.

const scroller = document.getElementById("scroller");
const byId = id => document.getElementById(id);
let view = {};
let found = [];
let drawnFor = null;

/** Change the state: its address is new, and what it shows. */
function go(changes, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address(changes));
  follow();
}

function follow() {
  readAddress();
  const filters = address({ item: null });
  if (filters !== drawnFor) {
    drawnFor = filters;
    scroller.scrollTo(0, 0);
    draw();
  }
  showDetail(found);
}

function draw() {
  stop();
  const result = matching();
  found = result.found;
  drawControls(result.counts);
  scroller.replaceChildren();
  const makers = { grid, compare, models };
  if (found.length) view = makers[state.view](scroller, found);
  else {
    view = {};
    const clear = () => go({ models: new Set(), query: "", status: "" });
    const button = numItems ? el("button", { type: "button", onclick: clear }, "Clear the filters") : null;
    const text = el("p", {}, numItems ? "Nothing matches." : "There are no items.");
    scroller.append(el("div", { className: "nothing" }, text, button));
  }
}

function drawControls(counts) {
  for (const button of document.querySelectorAll("nav button"))
    button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  if (byId("query").value !== state.query) byId("query").value = state.query;
  const [first, ...others] = state.models;
  const chosen = others.length ? plural(state.models.size, "model") : entries[first];
  byId("models").textContent = state.models.size ? chosen : "All models";
  for (const box of byId("model-options").querySelectorAll("input")) box.checked = state.models.has(Number(box.value));
  const all = counts.ok + counts.failed + counts.invalid;
  for (const button of byId("statuses").children) {
    button.setAttribute("aria-pressed", String(button.value === state.status));
    button.lastChild.textContent = (button.value ? counts[button.value] : all).toLocaleString("en");
  }
  byId("shown").textContent = found.length === numItems ? "" : `${found.length.toLocaleString("en")} shown`;
}

function makeControls() {
  const sizes = [[numItems, "item"], [entries.length, "model"], [prompts.length, "prompt"]];
  byId("summary").textContent = sizes.map(([number, word]) => plural(number, word)).join(", ");
  for (const [value, name] of [["", "All"], ...Object.entries(statusNames)]) {
    const toggle = () => go({ status: value });
    byId("statuses").append(el("button", { type: "button", value, onclick: toggle }, `${name} `, el("span", {})));
  }
  entries.forEach((name, place) => {
    const toggle = event => {
      const chosen = new Set(state.models);
      if (event.target.checked) chosen.add(place);
      else chosen.delete(place);
      go({ models: chosen }, { replace: true });
    };
    const box = el("input", { type: "checkbox", value: place, onchange: toggle });
    byId("model-options").append(el("label", {}, box, el("span", {}, name)));
  });
  byId("all-models").onclick = () => go({ models: new Set() }, { replace: true });
  byId("model-query").hidden = entries.length <= 12;
  byId("model-query").oninput = event => {
    const text = event.target.value.toLowerCase();
    for (const label of byId("model-options").children)
      label.hidden = !label.textContent.toLowerCase().includes(text);
  };
  byId("query").oninput = event => go({ query: event.target.value }, { replace: true });
  for (const button of document.querySelectorAll("nav button"))
    button.onclick = () => go({ view: button.dataset.view });
}

// A popover stands where its page puts it: below its button.
byId("model-list").addEventListener("toggle", event => {
  if (event.newState !== "open") return;
  const { left, bottom } = byId("models").getBoundingClientRect();
  const list = byId("model-list");
  list.style.top = `${bottom + 4}px`;
  list.style.left = `${Math.max(8, Math.min(left, innerWidth - list.offsetWidth - 8))}px`;
});

let pointedAt = null;
function point(unit) {
  if (unit === pointedAt) return;
  pointedAt = unit;
  if (!unit) return stop();
  const { left, right } = scroller.getBoundingClientRect();
  const onScreen = box => box.getBoundingClientRect().right > left && box.getBoundingClientRect().left < right;
  play([...unit.querySelectorAll(".media")].filter(onScreen));
}
function replay(unit) {
  pointedAt = null;
  point(unit);
}
const unitOf = target => (view.unit && target instanceof Element ? target.closest(view.unit) : null);
scroller.addEventListener("pointerover", event => event.pointerType !== "touch" && point(unitOf(event.target)));
// Where nothing hovers: a card opens large and plays there, and the prompt of a row plays the row.
scroller.addEventListener("click", event => {
  if (event.target.closest(".title")) replay(unitOf(event.target));
});
scroller.addEventListener("pointerleave", () => point(null));
scroller.addEventListener("focusin", event => event.target.matches(":focus-visible") && point(unitOf(event.target)));
scroller.addEventListener("focusout", () => point(null));

/** Arrow keys go from clip to clip, to rows that are not drawn yet as well. */
scroller.addEventListener("keydown", event => {
  const at = event.target.closest("[data-index]");
  if (!at || !view.rows || event.ctrlKey || event.metaKey || event.altKey) return;
  const index = [...view.rows.drawn].find(([, row]) => row.contains(at))[0];
  const links = row => [...row.querySelectorAll("a[data-index]")];
  const column = links(view.rows.drawn.get(index)).indexOf(at);
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (!(event.key in steps)) return;
  const [down, across] = steps[event.key];
  event.preventDefault();
  const last = links(view.rows.drawn.get(index)).length - 1;
  let [row, place] = [index + down, column + across];
  if (place < 0 || place > last) [row, place] = [index + across, across > 0 ? 0 : Infinity];
  if (row < 0 || row >= view.rows.count) return;
  view.rows.show(row, view.covered);
  const targets = links(view.rows.drawn.get(row));
  targets[Math.min(place, targets.length - 1)].focus({ preventScroll: state.view === "grid" });
});
addEventListener("keydown", event => {
  if (event.key !== "/" || event.target.matches("input") || dialog.open) return;
  event.preventDefault();
  byId("query").focus();
});

let waiting = false;
let leftEdge = 0;
scroller.addEventListener("scroll", () => {
  if (waiting || !view.rows) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    view.rows?.update();
    if (scroller.scrollLeft === leftEdge) return;
    leftEdge = scroller.scrollLeft;
    replay(pointedAt); // with the cells that came into sight
  });
}, { passive: true });

let width = 0;
new ResizeObserver(() => {
  if (scroller.clientWidth === width) return view.rows?.update();
  // The same item stays at the top when the number of columns changes.
  const first = view.rows ? Math.floor(scroller.scrollTop / view.rows.height) * view.columns : 0;
  width = scroller.clientWidth;
  draw();
  if (view.rows && first) scroller.scrollTop = Math.floor(first / view.columns) * view.rows.height;
}).observe(scroller);

addEventListener("hashchange", follow);
makeControls();
width = scroller.clientWidth;
follow();

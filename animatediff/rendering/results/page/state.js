// What is shown: all of it is in the address behind the #, so that every view can be linked.

const state = { view: "grid", models: new Set(), query: "", status: "", item: null };
const views = ["grid", "compare", "models"];

function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  state.view = views.includes(values.get("view")) ? values.get("view") : "grid";
  state.models = new Set(values.getAll("model").map(name => entries.indexOf(name)).filter(place => place >= 0));
  state.query = values.get("q") || "";
  state.status = statuses.includes(values.get("status")) ? values.get("status") : "";
  state.item = find(values.get("item"), values.get("of"));
}

/** The address of the state with some changes. */
function address(changes = {}) {
  const to = { ...state, ...changes };
  const values = new URLSearchParams();
  if (to.view !== "grid") values.set("view", to.view);
  for (const place of [...to.models].sort((a, b) => a - b)) values.append("model", entries[place]);
  if (to.query) values.set("q", to.query);
  if (to.status) values.set("status", to.status);
  if (to.item !== null) {
    values.set("item", items.digest[to.item].slice(0, 16));
    values.set("of", model(to.item)); // entries of one name each may share an item's digest
  }
  return "#" + values;
}

function find(digest, name) {
  if (!digest) return null;
  const found = [];
  for (let i = 0; i < numItems; i++) if (items.digest[i].startsWith(digest)) found.push(i);
  const exact = found.find(i => model(i) === name);
  return exact ?? found[0] ?? null;
}

const lower = {
  prompt: prompts.map((text, place) => text.toLowerCase()),
  entry: entries.map(text => text.toLowerCase()),
  note: notes.map(values => Object.values(values).join(" ").toLowerCase()),
};

/** The items of the chosen models with every word of the query and the chosen status, and how many each status has. */
function matching() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  const shared = Object.entries(lower).map(([name, texts]) => [
    items[name],
    words.map(word => texts.map(text => text.includes(word))),
  ]);
  const counts = { ok: 0, failed: 0, invalid: 0 };
  const found = [];
  for (let i = 0; i < numItems; i++) {
    if (state.models.size && !state.models.has(items.entry[i])) continue;
    const has = (word, k) => shared.some(([column, table]) => table[k][column[i]]) || items.seed[i] === word;
    if (!words.every(has)) continue;
    counts[items.status[i]]++;
    if (!state.status || items.status[i] === state.status) found.push(i);
  }
  return { found, counts };
}

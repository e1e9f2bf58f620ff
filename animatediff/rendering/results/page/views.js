// The three views of the items that match: cards, prompts by models, and the models' figures.

/** One line on an item: its status if it is not there, its first scores, or how long it took. */
function facts(i, numScores) {
  if (items.status[i] !== "ok") return statusNames[items.status[i]];
  const scores = scoresOf(i).slice(0, numScores).map(([name, value]) => `${name} ${value.toFixed(2)}`);
  return scores.join(" · ") || (secondsOf(i).length ? seconds(total(i)) : "");
}

function card(i) {
  const status = items.status[i];
  return el(
    "a",
    { className: `card ${status}`, href: address({ item: i }), "data-index": i },
    media(i),
    el("span", { className: "line" }, el("b", {}, model(i)), el("span", {}, `seed ${items.seed[i]}`)),
    el("span", { className: "prompt" }, shownPrompt(i)),
    el("span", { className: "facts" }, facts(i, Infinity), note(i).warning ? el("em", {}, "Warning") : null),
  );
}

function grid(scroller, found) {
  const canvas = el("div", { className: "canvas grid" });
  scroller.append(canvas);
  const style = getComputedStyle(canvas);
  const names = ["--gap", "--card-text", "--card"];
  const [gap, text, smallest] = names.map(name => parseFloat(style.getPropertyValue(name)));
  const width = canvas.clientWidth;
  const columns = Math.max(1, Math.floor((width + gap) / (smallest + gap)));
  const border = 2;
  const height = ((width - gap * (columns - 1)) / columns - border) / aspect + border + text + gap;
  const rows = new Rows(scroller, canvas, Math.ceil(found.length / columns), height, index => {
    const row = el("div", { className: "row" }, ...found.slice(index * columns, (index + 1) * columns).map(card));
    row.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    return row;
  });
  return { rows, columns, unit: ".card" };
}

/** Rows by prompt and seed; a model's further items of these, with other settings, make further rows. */
function promptRows(found) {
  const rows = new Map();
  for (const i of found) {
    const cells = rows.get(`${items.prompt[i]} ${items.seed[i]}`) || [];
    if (!cells.length) rows.set(`${items.prompt[i]} ${items.seed[i]}`, cells);
    let row = cells.find(each => !each.has(items.entry[i]));
    if (!row) cells.push((row = new Map()));
    row.set(items.entry[i], i);
  }
  // Those with the most to compare first; the sort keeps the order of equal ones.
  return [...rows.values()].flat().sort((a, b) => b.size - a.size);
}

function compare(scroller, found) {
  const table = promptRows(found);
  const columns = [...new Set(found.map(i => items.entry[i]))].sort((a, b) => a - b);
  const style = getComputedStyle(scroller);
  const names = ["--head", "--cell", "--cell-text", "--cell-padding"];
  const [head, smallest, text, padding] = names.map(name => parseFloat(style.getPropertyValue(name)));
  const width = Math.min(360, Math.max(smallest, (scroller.clientWidth - head) / columns.length));
  const template = `${head}px repeat(${columns.length}, ${width}px)`;
  const heads = columns.map(place => el("b", { title: entries[place] }, entries[place]));
  const top = el("div", { className: "top" }, el("span", {}, plural(table.length, "row")), ...heads);
  const canvas = el("div", { className: "canvas compare" });
  for (const each of [top, canvas]) each.style.width = `${head + width * columns.length}px`;
  top.style.gridTemplateColumns = template;
  scroller.append(top, canvas);
  const height = (width - 2 * padding) / aspect + 2 * padding + text;
  const rows = new Rows(scroller, canvas, table.length, height, index => {
    const [any] = table[index].values();
    const seed = el("small", {}, `seed ${items.seed[any]}`);
    const title = el("div", { className: "title" }, el("p", {}, shownPrompt(any)), seed);
    const cells = columns.map(place => cell(table[index].get(place)));
    const row = el("div", { className: "row" }, title, ...cells);
    row.style.gridTemplateColumns = template;
    return row;
  });
  return { rows, columns: 1, unit: ".row", covered: top.offsetHeight };
}

function cell(i) {
  if (i === undefined) return el("span", { className: "cell none" }, "–");
  const label = `${model(i)}: ${shownPrompt(i)}`;
  return el(
    "a",
    { className: `cell ${items.status[i]}`, href: address({ item: i }), "data-index": i, "aria-label": label },
    media(i),
    el("small", {}, facts(i, 1)),
  );
}

/** A model's figures over the items that match: counts, mean seconds and mean scores. */
function figures(found) {
  const byModel = new Map();
  const nothing = () => ({ ok: 0, failed: 0, invalid: 0, seconds: 0, scores: data.scores.map(() => []) });
  for (const i of found) {
    const of = byModel.get(items.entry[i]) || nothing();
    byModel.set(items.entry[i], of);
    of[items.status[i]]++;
    if (items.status[i] === "ok") of.seconds += total(i);
    items.scores[i].forEach((value, k) => value === null || of.scores[k].push(value));
  }
  const mean = values => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
  return [...byModel].map(([place, of]) => ({
    place,
    values: [of.ok, of.failed, of.invalid, of.ok ? of.seconds / of.ok : null, ...of.scores.map(mean)],
  }));
}

let sorting = { column: null, down: true };

function models(scroller, found) {
  const means = ["seconds", ...scoreNames].map(name => `Mean ${name}`);
  const names = [...statuses.map(status => statusNames[status]), ...means];
  const rows = figures(found);
  const { column, down } = sorting;
  const place = row => row.values[column] ?? (down ? -Infinity : Infinity); // what is not known comes last
  if (column !== null) rows.sort((a, b) => (place(a) - place(b)) * (down ? -1 : 1));
  const heads = names.map((name, k) => {
    const sort = () => {
      sorting = { column: k, down: column === k ? !down : true };
      draw();
    };
    const order = column === k ? (down ? "descending" : "ascending") : "none";
    return el("th", { scope: "col", "aria-sort": order }, el("button", { type: "button", onclick: sort }, name));
  });
  const shown = (value, k) => (value === null ? "–" : k < 3 ? value.toLocaleString("en") : value.toFixed(3));
  const body = rows.map(({ place, values }) => {
    const to = address({ view: "grid", models: new Set([place]) });
    const name = el("th", { scope: "row" }, el("a", { href: to }, entries[place]));
    const bad = (value, k) => ((k === 1 || k === 2) && value ? "bad" : "");
    return el("tr", {}, name, ...values.map((value, k) => el("td", { className: bad(value, k) }, shown(value, k))));
  });
  const by = scorers.filter(scorer => found.some(i => scoresBy(scorer, i).length));
  const head = el("tr", {}, el("th", { scope: "col" }, "Model"), ...heads);
  const table = el("table", {}, el("thead", {}, head), el("tbody", {}, ...body));
  const source = by.length ? el("p", {}, `Scores by ${by.join(", ")}`) : null;
  scroller.append(el("div", { className: "figures" }, table, source));
  return {};
}

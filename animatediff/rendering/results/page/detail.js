// One item, large, with everything that is known of it.

const dialog = document.getElementById("detail");

function section(heading, rows, kind = "") {
  if (!rows.length) return null;
  const list = rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  return el("section", {}, el("h3", {}, heading), el("dl", { className: kind }, ...list));
}

const code = text => el("code", {}, text);

function times(i) {
  const rows = secondsOf(i);
  const most = Math.max(...rows.map(([, value]) => value));
  const bar = (value, share) => {
    const filled = el("i");
    filled.style.width = share ? `max(1px, ${100 * share}%)` : 0;
    const track = el("span", { className: "track" }, filled);
    return el("span", { className: "time" }, el("span", {}, seconds(value)), track);
  };
  const stages = rows.map(([name, value]) => [name, bar(value, most ? value / most : 0)]);
  return section("Seconds by stage", rows.length > 1 ? [...stages, ["total", bar(total(i), 0)]] : stages);
}

function files(i) {
  const all = Object.keys(kinds[items.kinds[i]]);
  const rows = Object.keys(kindNames).filter(kind => all.includes(kind)).map(kind => {
    const name = decodeURIComponent(link(i, kind).split("/").pop());
    const text = kind === "png" ? `the first of ${settingsOf(i).num_frames}` : name;
    const hash = items.sha256[i][all.indexOf(kind)];
    return [kindNames[kind], el("span", {}, el("a", { href: link(i, kind) }, text), hash ? code(hash) : null)];
  });
  return section("Files and their SHA-256", rows);
}

/** The pictures that a clip was led by, beside it; null for items without. */
function condition(i) {
  const source = link(i, "condition");
  return source && el("img", { className: "led", src: source, alt: "The pictures that the clip was led by" });
}

const file = uri => el("span", { title: uri }, uri.replace(/\/+$/, "").split("/").pop());
const fileList = uris => el("span", {}, ...uris.flatMap((uri, k) => (k ? [", ", file(uri)] : [file(uri)])));
const percent = share => `${Math.round(100 * share)} %`;
/** A strength: a number, or numbers by frame. */
function strength(scale) {
  if (typeof scale !== "object") return String(scale);
  return Object.entries(scale).map(([frame, each]) => `${each} at frame ${frame}`).join(", ");
}

/** What a control or an image prompt says, as names and values; what is as it is by default is left out. */
function ledBy({ net, adapter, pictures, video, frames, preprocess, scale, start, end, mask, ...others }) {
  return [
    net ? ["network", file(net)] : ["adapter", file(adapter)],
    video ? ["video", file(video)] : ["pictures", fileList(pictures)],
    frames.length ? ["frames", frames.join(", ")] : null,
    preprocess && preprocess !== "none" ? ["preprocess", preprocess] : null,
    ["scale", strength(scale)],
    start > 0 || end < 1 ? ["steps", `${percent(start)} to ${percent(end)}`] : null,
    mask ? ["mask", file(mask)] : null,
    ...Object.entries(others).filter(([, value]) => value).map(([name]) => [name.replaceAll("_", " "), "yes"]),
  ].filter(row => row !== null);
}

function conditionSections(i) {
  const { controls = [], images = [] } = settingsOf(i);
  return [
    ...controls.map((each, k) => section(`Control ${k + 1}`, ledBy(each))),
    ...images.map((each, k) => section(`Image ${k + 1}`, ledBy(each))),
  ];
}

function settingRows(i) {
  const { width, height, controls, images, ...others } = settingsOf(i);
  const pairs = value => Object.entries(value).filter(([, each]) => each !== null).map(pair => pair.join(" ")).join(", ");
  const rows = Object.entries(others).filter(([, value]) => value !== null && value !== "").map(([name, value]) => [
    name.replaceAll("_", " "),
    typeof value === "object" ? pairs(value) : readable(String(value)),
  ]);
  return [["seed", items.seed[i]], ["size", `${width} × ${height}`], ...rows];
}

/** The clip in its own shape, or a still where nothing moves; null for items that were not rendered. */
function large(i) {
  if (items.status[i] !== "ok") return null;
  const still = link(i, "poster") || link(i, "png") || "";
  const player = clip(i) || el("img", { src: still });
  const isVideo = player instanceof HTMLVideoElement;
  Object.assign(player, isVideo ? { controls: true, autoplay: true, tabIndex: 0, poster: still } : { alt: shownPrompt(i) });
  const { width, height } = settingsOf(i);
  player.style.aspectRatio = `${width} / ${height}`;
  const box = el("div", { className: "large" }, player);
  player.addEventListener("error", () => box.replaceChildren(el("p", {}, "The file is missing or cannot be played.")));
  return box;
}

const message = (kind, text) => (text ? el("p", { className: `message ${kind}` }, text) : null);

function head(i, found) {
  const place = found.indexOf(i);
  const status = items.status[i];
  const step = (text, label, to) => {
    const disabled = place < 0 || to === undefined;
    const onclick = () => go({ item: to }, { replace: true });
    return el("button", { type: "button", "aria-label": label, disabled, onclick }, text);
  };
  return el(
    "div",
    { className: "head" },
    el("h2", {}, model(i)),
    status === "ok" ? null : el("span", { className: "status" }, statusNames[status]),
    el("span", { className: "place" }, place < 0 ? "" : `${place + 1} of ${found.length.toLocaleString("en")}`),
    step("‹", "Previous clip", found[place - 1]),
    step("›", "Next clip", found[place + 1]),
    el("button", { type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "×"),
  );
}

function text(i) {
  const { error, warning, scores } = note(i);
  const { weights, versions } = origins[items.origin[i]];
  const others = address({ view: "compare", models: new Set(), query: prompt(i), status: "", item: null });
  return el(
    "div",
    { className: "text" },
    message("bad", error),
    message("warning", warning),
    message("warning", scores),
    el("p", { className: "prompt" }, shownPrompt(i)),
    el("a", { className: "also", href: others }, "Compare this prompt over all models"),
    condition(i),
    ...conditionSections(i),
    ...scorers.map(scorer => section(`Scores by ${scorer}`, scoresBy(scorer, i))),
    section("Settings", settingRows(i)),
    times(i),
    files(i),
    section("Weights", Object.entries(weights).map(([uri, hash]) => [uri, code(hash)]), "stacked"),
    section("Versions", Object.entries(versions)),
    section("Item", [["digest", code(items.digest[i])], ["attempts", String(items.attempts[i])]]),
  );
}

/** Show the item that the state names, with its neighbours among those that match; or nothing. */
function showDetail(found) {
  const i = state.item;
  if (i === null) {
    if (dialog.open) dialog.close();
    dialog.replaceChildren();
    return;
  }
  stop();
  const body = el("div", { className: "body" }, large(i), text(i));
  dialog.replaceChildren(head(i, found), body);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

dialog.addEventListener("close", () => state.item !== null && go({ item: null }));
dialog.addEventListener("click", event => event.target === dialog && dialog.close());
dialog.addEventListener("keydown", event => {
  const steps = { ArrowLeft: 0, ArrowRight: 1 };
  if (!(event.key in steps) || event.target instanceof HTMLVideoElement) return;
  dialog.querySelectorAll(".head button")[steps[event.key]].click();
});

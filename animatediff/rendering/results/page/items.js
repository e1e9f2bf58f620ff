"use strict";
// The items: columns of numbers and places in lists of what many of them share.

const data = JSON.parse(document.getElementById("data").textContent);
const { entry: entries, prompt: prompts, settings, origin: origins, note: notes, kinds } = data.shared;
const items = data.items;
const numItems = items.digest ? items.digest.length : 0;
const statuses = ["ok", "failed", "invalid"];
const statusNames = { ok: "Rendered", failed: "Failed", invalid: "Invalid" };

const note = i => notes[items.note[i]];
const settingsOf = i => settings[items.settings[i]];
const model = i => entries[items.entry[i]];
const prompt = i => prompts[items.prompt[i]];
/** Texts by frame, which are JSON in the data, as people read them; other texts as they are. */
function readable(text) {
  if (!/^\{\s*"-?\d+"\s*:/.test(text)) return text;
  try {
    return Object.entries(JSON.parse(text)).map(([frame, each]) => `${frame}: ${each}`).join(" → ");
  } catch {
    return text;
  }
}
const shownPrompt = i => readable(prompt(i));
const total = i => items.seconds[i].reduce((sum, value) => sum + value, 0);

/** The link to an item's file of a kind, null where it has none. */
function link(i, kind) {
  const suffix = kinds[items.kinds[i]][kind];
  if (suffix === undefined) return null;
  const path = "./" + items.stem[i] + suffix;
  return kind === "png" ? path + "/0000.png" : path;
}

/** The shape of most clips: all cards have it, so that rows are of one height. */
const aspect = (() => {
  const counts = new Map();
  for (const place of items.settings || []) counts.set(place, (counts.get(place) || 0) + 1);
  const [most] = [...counts].sort((a, b) => b[1] - a[1])[0] || [];
  const ratio = most === undefined ? 1 : settings[most].width / settings[most].height;
  return Math.min(2, Math.max(0.6, ratio));
})();

const kindNames = {
  mp4: "MP4", gif: "GIF", webp: "WebP", png: "PNG frames", latents: "Latents", poster: "Poster", condition: "Led by",
};
const seconds = value => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0) + " s";
const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

/** What was measured of an item, as names and values. */
const known = (names, values) => names.map((name, k) => [name, values[k]]).filter(([, value]) => value !== null);
const secondsOf = i => known(data.stages, items.seconds[i]);
const scorers = [...new Set(data.scores.map(({ scorer }) => scorer))];
/** Scores' names; with the scorer where several give one of that name. */
const scoreNames = data.scores.map(({ scorer, name }) => {
  const isShared = data.scores.some(other => other.name === name && other.scorer !== scorer);
  return isShared ? `${name} (${scorer})` : name;
});
const scoresOf = i => known(scoreNames, items.scores[i]);
/** A scorer's own, as names and texts. */
const scoresBy = (scorer, i) => data.scores.flatMap((score, k) => {
  const value = items.scores[i][k];
  return score.scorer === scorer && value !== null ? [[score.name, String(value)]] : [];
});

/** A new element; texts among the children stay texts. */
function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

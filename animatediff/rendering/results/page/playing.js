// Stills that become moving pictures: nothing is loaded before it is pointed at.

let turn = 0;
let players = [];

/** A box with an item's still, or with the reason why there is none; `play` puts the clip over it. */
function media(i) {
  const box = el("div", { className: "media", "data-index": i });
  if (items.status[i] !== "ok") {
    box.classList.add("bad");
    box.append(el("p", {}, note(i).error || statusNames[items.status[i]]));
    return box;
  }
  const still = link(i, "poster") || link(i, "webp") || link(i, "gif") || link(i, "png");
  const gone = () => box.classList.add("gone");
  if (still) box.append(el("img", { src: still, loading: "lazy", decoding: "async", alt: "", onerror: gone }));
  else if (link(i, "mp4"))
    box.append(el("video", { src: link(i, "mp4") + "#t=0.001", preload: "metadata", muted: true, onerror: gone }));
  const led = link(i, "condition");
  if (led) box.append(el("img", { className: "condition", src: led, loading: "lazy", decoding: "async", alt: "" }));
  return box;
}

/** An element that shows the moving clip: the MP4, else a GIF or WebP; null where the item has none. */
function clip(i) {
  const source = link(i, "mp4");
  if (source)
    return el("video", { src: source, muted: true, loop: true, playsInline: true, preload: "auto", tabIndex: -1 });
  const picture = link(i, "gif") || link(i, "webp");
  return picture && el("img", { src: picture, alt: "" });
}

const pause = ms => new Promise(resolve => setTimeout(resolve, ms));

/** When a video can play, or after some seconds all the same: one slow file must not hold a row. */
function ready(video) {
  const loaded = new Promise(resolve => {
    if (video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) resolve();
    for (const event of ["canplay", "error"]) video.addEventListener(event, resolve, { once: true });
  });
  return Promise.race([loaded, pause(4000)]);
}

/** Play the clips of these boxes, and of no others; several start together, again at the end of the longest. */
async function play(boxes) {
  stop();
  const mine = turn;
  await pause(60); // a pointer on its way across the page loads nothing
  if (mine !== turn) return;
  for (const box of boxes) {
    const player = box.classList.contains("bad") ? null : clip(Number(box.dataset.index));
    if (!player) continue;
    box.append(player);
    players.push(player);
    player.addEventListener("error", () => box.classList.add("gone"), { once: true });
  }
  const videos = players.filter(player => player instanceof HTMLVideoElement);
  await Promise.all(videos.map(ready));
  if (mine !== turn) return;
  const playable = videos.filter(video => !video.error);
  const start = () => {
    for (const video of playable) {
      video.currentTime = 0;
      video.play().catch(() => {}); // it was taken away before it began
    }
  };
  if (playable.length > 1) {
    for (const video of playable) video.loop = false;
    const longest = playable.reduce((a, b) => (b.duration > a.duration ? b : a));
    longest.addEventListener("ended", start);
  }
  start();
}

function stop() {
  turn++;
  for (const player of players) {
    player.remove();
    if (player instanceof HTMLVideoElement) {
      player.removeAttribute("src"); // frees the decoder at once
      player.load();
    }
  }
  players = [];
}

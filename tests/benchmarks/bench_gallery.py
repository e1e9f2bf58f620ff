"""The gallery page in a real browser: how fast it opens, filters and plays, from disk and from a server.

    python -m tests.benchmarks.bench_gallery                                    # 1,000 items
    python -m tests.benchmarks.bench_gallery --items 10000 --screenshots /tmp   # and pictures to look at

Needs Chromium or Chrome, which is driven through its DevTools protocol. The clips are the sprite world's, 256 x 256,
one for each prompt and style; models of one style share theirs (hard links). The browser starts once; each opening is
a new tab with an empty cache, measured from the start of the navigation. The server answers range requests, as object
stores do.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from animatediff.rendering.outputs import encode_clip
from animatediff.rendering.results.gallery import gallery_html
from animatediff.rendering.results.result import Result
from animatediff.sprites.scenes.drawing import STYLES, render
from animatediff.sprites.scenes.world import caption, sample_scenes

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NUM_PROMPTS, SEEDS = 25, (0, 1)
ROUNDS = 5
# Runs in the page before its own scripts: the time at which all posters on the screen are drawn.
WATCH = """
window.drawn = new Promise(resolve => {
  const look = () => {
    const onScreen = poster => poster.getBoundingClientRect().top < innerHeight;
    const posters = [...document.querySelectorAll('.card img')].filter(onScreen);
    if (posters.length && posters.every(p => p.complete && p.naturalWidth))
      requestAnimationFrame(() => resolve(performance.now()));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
});
"""
TIMES = """(async () => {
  const drawn = await window.drawn, [entry] = performance.getEntriesByType('navigation');
  const paints = () => performance.getEntriesByName('first-contentful-paint');
  while (!paints().length) await new Promise(requestAnimationFrame);
  return {ready: entry.domContentLoadedEventEnd, paint: paints()[0].startTime, load: entry.loadEventEnd,
    posters: drawn};
})()"""
FILTER = """(async () => {
  const input = document.querySelector('#query'), times = [];
  for (const text of ['star', 'star moving', 'out of memory', 'no such words', '']) {
    const start = performance.now();
    input.value = text;
    input.dispatchEvent(new Event('input'));
    document.querySelector('#scroller').getBoundingClientRect();  // layout too
    times.push(performance.now() - start);
    await new Promise(requestAnimationFrame);
  }
  return Math.max(...times);
})()"""
PLAYING = """[...document.querySelectorAll('.media video')].map(video => video.currentTime)"""


class Tab:
    """A page of the browser."""

    def __init__(self, socket):
        self._socket, self._ids, self.logs = socket, itertools.count(1), []

    async def call(self, method, **parameters):
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=60)
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.logs.append(json.dumps(answer["params"])[:600])
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    async def evaluate(self, script):
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:800])
        return answer["result"].get("value")

    async def open(self, url, *, width=1440, height=900, dark=False, mobile=False):
        """Go there, and wait until the posters are drawn."""
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            await self.call(f"{domain}.enable")
        await self.call("Network.setCacheDisabled", cacheDisabled=True)
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        await self.call("Page.navigate", url=url)
        await self.evaluate("new Promise(r => document.readyState === 'complete' ? r() : addEventListener('load', r))")

    async def hover(self, selector):
        """Move the pointer onto the first element of this kind."""
        find = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        x, y = await self.evaluate(f"{find}(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def key(self, name):
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    async def screenshot(self, path):
        answer = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.asynccontextmanager
async def browser(program, profile):
    """A function that opens tabs."""
    flags = ["--headless=new", "--no-sandbox", "--no-first-run", "--remote-debugging-port=0", "--disable-gpu"]
    process = subprocess.Popen(
        [program, *flags, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = Path(profile) / "DevToolsActivePort"
        for _ in range(300):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        port = int(port_file.read_text().split()[0])
        async with aiohttp.ClientSession() as session:

            @contextlib.asynccontextmanager
            async def tab():
                async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                    target = await answer.json()
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Tab(socket)
                async with session.get(f"http://127.0.0.1:{port}/json/close/{target['id']}"):
                    pass

            yield tab
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def served(folder):
    """The address of a server of the folder."""
    application = web.Application()
    application.router.add_static("/", folder)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


def make_catalog(folder, num_items):
    """Results with real clips, one in 50 of them failed or invalid."""
    models = [
        f"{style}-{kind}" for kind in ("v1", "v2.1", "soft", "final", "merge-xl", "lora8", "night") for style in STYLES
    ]
    models = models[:20]
    scenes = sample_scenes(max(NUM_PROMPTS, num_items // (len(models) * len(SEEDS))), seed=3)
    (folder / "clips").mkdir()
    results = []
    shared = {"model": "0" * 64, "model_hashes": hashes(), "versions": versions(), "width": 256, "height": 256}
    for (number, name), (place, scene), seed in itertools.product(enumerate(models), enumerate(scenes), SEEDS):
        if len(results) == num_items:
            break
        prompt = caption(scene) + ", masterpiece, best quality, cinematic light, detailed" * (place % 3 == 0)
        digest = hashlib.sha256(f"{name} {place} {seed}".encode()).hexdigest()
        values = shared | {"digest": digest, "entry": name, "prompt": prompt, "seed": seed, "attempts": 1}
        values |= {"negative_prompt": "blurry, low quality", "num_inference_steps": 20 + number % 3 * 5}
        results.append(Result(**values, **outcome(folder, digest, scenes[place % NUM_PROMPTS], name, place, seed)))
    return results


def hashes():
    names = ("stable-diffusion-v1-5", "mm_sd_v15_v2.safetensors", "checkpoint.safetensors")
    return {f"s3://models/{name}": hashlib.sha256(name.encode()).hexdigest() for name in names}


def versions():
    return {"animatediff": "0.1.0", "torch": "2.11.0", "diffusers": "0.40.0", "device": "NVIDIA H100 80GB HBM3"}


def outcome(folder, digest, scene, name, place, seed):
    """What is there of an item: its files, or why there are none."""
    lot = int(digest[:8], 16) % 100
    if lot == 0:
        return {"status": "failed", "error": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB"}
    if lot == 1:
        return {"status": "invalid", "error": "embedding easynegative: 1,280 values a token, the text encoder has 768"}
    style = name.split("-")[0]
    files = {}
    for kind, source in clip_files(folder, scene, style).items():
        files[kind] = f"clips/{digest[:16]}{''.join(source.suffixes)}"
        os.link(source, folder / files[kind])
    return {
        "status": "ok",
        "warning": "the prompt has 81 tokens: the last 6 are left out" if lot == 2 else None,
        "seconds": {"load": 0.31, "text": 0.02, "unet": 3 + lot / 40, "vae": 0.84, "encode": 0.12, "write": 0.05},
        "files": files,
        "sha256": {kind: hashlib.sha256(f"{kind} {digest}".encode()).hexdigest() for kind in files},
        "scores": {
            "animatediff.sprites.scoring:score": {
                "motion": (lot * 7 % 100) / 100,
                "consistency": 0.9 + lot / 1000,
            }
        },
    }


def clip_files(folder, scene, style, made={}):  # noqa: B006 - a cache
    if (scene, style) not in made:
        frames = render(scene, num_frames=16, height=256, width=256, style=style)
        stem = folder / "clips" / f"source{len(made)}"
        made[scene, style] = {}
        for item in encode_clip(["mp4"], frames, fps=8):
            made[scene, style][item.format] = stem.with_name(stem.name + item.suffix)
            made[scene, style][item.format].write_bytes(item.data)
    return made[scene, style]


async def measure(tab_of, url):
    """Milliseconds of opening, the median of some rounds; of the slowest filter; and what plays under the pointer."""
    opened, logs = [], []
    for _ in range(ROUNDS):
        async with tab_of() as tab:
            await tab.open(url)
            opened.append(await tab.evaluate(TIMES))
            logs += tab.logs
    async with tab_of() as tab:
        await tab.open(url)
        await tab.evaluate(TIMES)
        await tab.hover(".card.ok .media")
        await asyncio.sleep(1.5)
        card = await tab.evaluate(PLAYING)
        slowest = await tab.evaluate(FILTER)
        await tab.evaluate("document.querySelector('[data-view=compare]').click()")
        await asyncio.sleep(0.5)
        await tab.hover(".compare .row:nth-child(2) .cell.ok .media")
        await asyncio.sleep(1.5)
        row = await tab.evaluate(PLAYING)
        metrics = {each["name"]: each["value"] for each in (await tab.call("Performance.getMetrics"))["metrics"]}
        logs += tab.logs
    for name in opened[0]:
        times = sorted(each[name] for each in opened)
        print(f"  {name:8} {statistics.median(times):7.0f} ms   ({times[0]:.0f} to {times[-1]:.0f})")
    print(f"  filter   {slowest:7.0f} ms, the slowest of five")
    print(f"  hover    a card plays: {len(card)} video at {max(card, default=0):.2f} s after 1.5 s")
    spread = 1000 * (max(row, default=0) - min(row, default=0))
    print(
        f"  compare  a row plays: {len(row)} videos at {max(row, default=0):.2f} s after 1.5 s, {spread:.0f} ms apart"
    )
    print(f"  memory   {metrics['JSHeapUsedSize'] / 2**20:.1f} MB of JavaScript, {metrics['Nodes']:.0f} nodes")
    for log in dict.fromkeys(logs):
        print(f"  log      {log}")


async def take_screenshots(tab_of, url, folder):
    views = {
        "grid": ("", {}),
        "compare": ("#view=compare", {}),
        "models": ("#view=models", {}),
        "dark": ("", {"dark": True}),
        "compare_dark": ("#view=compare", {"dark": True}),
        "phone": ("", {"width": 390, "height": 844, "mobile": True}),
        "phone_compare": ("#view=compare", {"width": 390, "height": 844, "mobile": True}),
        "failed": ("#status=failed", {}),
        "nothing": ("#q=zebra", {}),
    }
    for name, (address, options) in views.items():
        async with tab_of() as tab:
            await tab.open(url + address, **options)
            await asyncio.sleep(1)
            if name == "compare":
                await tab.hover(".compare .row:nth-child(2) .cell.ok .media")
                await asyncio.sleep(2)
            if name == "failed":
                await tab.evaluate("document.querySelector('#models').click()")
                await asyncio.sleep(0.3)
            await tab.screenshot(folder / f"gallery_{name}.png")
    details = {"detail": (".card.ok", {}), "detail_dark": (".card.ok", {"dark": True})}
    details |= {"detail_failed": (".card.failed", {"dark": False})}
    details |= {"phone_detail": (".card.ok", {"width": 390, "height": 844, "mobile": True})}
    for name, (selector, options) in details.items():
        async with tab_of() as tab:
            await tab.open(url + ("#status=failed" if "failed" in name else ""), **options)
            await tab.evaluate(f"document.querySelector('{selector}').click()")
            await asyncio.sleep(1.5)
            await tab.screenshot(folder / f"gallery_{name}.png")


async def run(program, num_items, screenshots):
    # No later than the browser: it writes into its profile to the end.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, profile = Path(name) / "catalog", Path(name) / "profile"
        folder.mkdir()
        results = make_catalog(folder, num_items)
        start = time.perf_counter()
        page = gallery_html(results, title="Sprite catalog").encode()
        print(f"{num_items:,} items: {len(page) / 1e6:.2f} MB, written in {time.perf_counter() - start:.2f} s")
        (folder / "index.html").write_bytes(page)
        async with browser(program, profile) as tab_of, served(folder) as address:
            for label, url in (("from disk", (folder / "index.html").as_uri()), ("served", f"{address}index.html")):
                print(label)
                await measure(tab_of, url)
            if screenshots:
                await take_screenshots(tab_of, (folder / "index.html").as_uri(), screenshots)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of all views")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"nothing measured: none of {', '.join(BROWSERS)} is installed")
        return
    asyncio.run(run(program, options.items, options.screenshots))


if __name__ == "__main__":
    main()

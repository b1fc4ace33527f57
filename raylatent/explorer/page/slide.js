"use strict";
// The slide itself at a tile, level by level: only where `raylatent serve` shows the page.
raylatent.slide = (() => {
  const { $, data, panel } = raylatent;
  const COARSER = 3; // levels under the one that is shown, until its pictures are here
  /** What is shown: the slide's facts, the middle in level-0 pixels, and the scale. @type {any} */
  let now = null;
  /** The pictures of a level in view. @param {CanvasRenderingContext2D} ctx @param {number} level */
  function drawLevel(ctx, level) {
    const { about, x, y, scale, canvas, tile } = now;
    const shrunk = 2 ** (about.levels - 1 - level);
    const side = about.tile * shrunk;
    const place = (/** @type {number} */ i) => i * side - (i > 0 ? (about.overlap ?? 0) * shrunk : 0);
    const from = (/** @type {number} */ v) => Math.max(0, Math.floor(v / side));
    const to = (/** @type {number} */ v, /** @type {number} */ size) => Math.min(Math.ceil(size / side) - 1, from(v));
    const [halfWidth, halfHeight] = [canvas.width / 2 / scale, canvas.height / 2 / scale];
    for (let row = from(y - halfHeight); row <= to(y + halfHeight, about.height); row += 1) {
      for (let col = from(x - halfWidth); col <= to(x + halfWidth, about.width); col += 1) {
        const image = raylatent.now.store.picture(`slide/${tile.slide}/${level}/${col}_${row}.jpg`);
        if (!image) continue;
        ctx.drawImage(image, place(col), place(row), image.naturalWidth * shrunk, image.naturalHeight * shrunk);
      }
    }
  }
  /** Draws what is in view, in level-0 pixels. */
  function draw() {
    if (!now) return;
    const { about, x, y, scale, canvas, tile } = now;
    const ctx = canvas.getContext("2d");
    ctx.resetTransform();
    ctx.fillStyle = "#ffffff";
    ctx.fillRect(0, 0, canvas.width, canvas.height);
    ctx.setTransform(scale, 0, 0, scale, canvas.width / 2 - x * scale, canvas.height / 2 - y * scale);
    const finest = about.levels - 1;
    const level = Math.max(0, Math.min(finest, finest - Math.floor(Math.log2(1 / scale))));
    for (let l = Math.max(0, level - COARSER); l <= level; l += 1) drawLevel(ctx, l);
    panel.squares(ctx, tile, scale);
  }
  /** @param {number} factor @param {number} dx @param {number} dy in pixels of the screen */
  function look(factor, dx, dy) {
    now.scale = Math.max(1 / 2 ** now.about.levels, Math.min(8, now.scale * factor));
    now.x += dx / now.scale;
    now.y += dy / now.scale;
    draw();
  }
  /** @param {KeyboardEvent} event */
  function key(event) {
    /** @type {Record<string, [number, number, number]>} */
    const moves = { ArrowLeft: [1, -80, 0], ArrowRight: [1, 80, 0], ArrowUp: [1, 0, -80],
      ArrowDown: [1, 0, 80], "+": [1.5, 0, 0], "=": [1.5, 0, 0], "-": [1 / 1.5, 0, 0] };
    if (!moves[event.key]) return;
    event.preventDefault();
    look(...moves[event.key]);
  }
  /** Opens a slide with a tile in the middle. @param {Tile} tile */
  async function open(tile) {
    const { meta, store } = raylatent.now;
    const response = await fetch(`${store.base}slide/${tile.slide}.json`);
    if (!response.ok) throw new Error(`The slide is not shown: ${await response.text()} (is it below --slides DIR?)`);
    const { name } = meta.slides[tile.slide];
    const canvas = /** @type {HTMLCanvasElement} */ (panel.el("canvas", { width: 1000, height: 640, tabindex: 0,
      role: "application", "aria-label": `Slide ${name}; arrows move it, + and - zoom` }));
    now = { about: await response.json(), canvas, tile, x: tile.loc_x, y: tile.loc_y, scale: 0.5 };
    canvas.addEventListener("keydown", key);
    canvas.addEventListener("pointermove", (e) => e.buttons === 1 && look(1, -e.movementX, -e.movementY));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      look(Math.exp(-event.deltaY / 400), 0, 0);
    }, { passive: false });
    $("slide-body").replaceChildren(panel.el("h2", {}, name), canvas);
    $("slide-close").onclick = () => $("slide").close();
    $("slide").onclose = () => { now = null; };
    $("slide").showModal();
    draw();
  }
  /** What opens the slide at a tile, or null without a server. @param {Tile} tile */
  const button = (tile) => raylatent.now.served && tile.loc_x !== data.NO_I4
    ? panel.button("Open the slide here", () => open(tile)) : null;
  return { button, draw };
})();

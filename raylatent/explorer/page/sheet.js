"use strict";
// Where on their slides tiles lie: the slides with most of them beside one another, in the colors of the map.
raylatent.sheet = (() => {
  const { color, data, panel, selection } = raylatent;
  const { counted, el, whole } = panel;
  const MOST_SLIDES = 60;
  const CARD_PX = 220;
  const EVERYWHERE = [-Infinity, -Infinity, Infinity, Infinity];
  /** The numbers of the members of each slide, the most first. @param {Members} members @returns {[number, number[]][]} */
  function bySlide(members) {
    /** @type {Map<number, number[]>} */
    const found = new Map();
    members.slide.forEach((/** @type {number} */ slide, /** @type {number} */ i) => {
      if (members.loc_x[i] === data.NO_I4) return;
      const own = found.get(slide);
      if (own) own.push(i);
      else found.set(slide, [i]);
    });
    return [...found].sort((a, b) => b[1].length - a[1].length || a[0] - b[0]);
  }
  /** The part of a slide in level-0 pixels that is shown [x, y, width, height]: all of it, or where its tiles lie.
   * @param {any} slide @param {Members} members @param {number[]} own */
  function extentOf(slide, members, own) {
    if (slide.width) return [0, 0, slide.width, slide.height];
    const margin = slide.window_px ?? 1;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (const i of own) {
      [left, right] = [Math.min(left, members.loc_x[i]), Math.max(right, members.loc_x[i])];
      [top, bottom] = [Math.min(top, members.loc_y[i]), Math.max(bottom, members.loc_y[i])];
    }
    return [left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin];
  }
  /** A slide with its tiles on it. @param {number} id @param {number[]} own @param {Members} members
   * @param {Uint32Array} colors of the members */
  async function cardOf(id, own, members, colors) {
    const slide = raylatent.now.meta.slides[id];
    const [x, y, w, h] = extentOf(slide, members, own);
    const scale = CARD_PX / Math.max(w, h);
    const [width, height] = [Math.max(1, Math.round(w * scale)), Math.max(1, Math.round(h * scale))];
    const told = `${slide.name}: ${counted(own.length, "tile")}`;
    const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { width, height, role: "img", "aria-label": told }));
    const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    ctx.fillStyle = "#f0f0f0";
    ctx.fillRect(0, 0, width, height);
    const image = slide.thumbnail && slide.width ? await panel.picture(`slides/${id}.jpg`) : null;
    if (image) ctx.drawImage(image, 0, 0, width, height);
    const side = Math.max(3, (slide.window_px ?? 0) * scale);
    ctx.globalAlpha = 0.5; // tissue is seen through it
    for (const i of own) {
      ctx.fillStyle = color.css(colors[i]);
      ctx.fillRect((members.loc_x[i] - x) * scale - side / 2, (members.loc_y[i] - y) * scale - side / 2, side, side);
    }
    const first = { slide: id, tile: members.tile[own[0]], loc_x: members.loc_x[own[0]], loc_y: members.loc_y[own[0]] };
    return el("li", { "data-slide": slide.name, "data-n": own.length }, canvas, el("p", {}, told),
      raylatent.slide.button(/** @type {Tile} */ (/** @type {unknown} */ (first))));
  }
  /** Shows the slides of tiles. @param {Members} members @param {string} what they are */
  async function show(members, what) {
    const { meta, by, regions, store } = raylatent.now;
    const found = bySlide(members);
    const colors = color.paint(meta, by, meta.levels[0], regions, members, false);
    const shown = found.slice(0, MOST_SLIDES);
    const cards = await Promise.all(shown.map(([id, own]) => cardOf(id, own, members, colors)));
    if (raylatent.now.store !== store) return;
    const about = meta.points.kind === "all" ? "" : "of the sample in this folder, ";
    const most = found.length > shown.length ? `; the ${shown.length} slides with most of them are shown` : "";
    const lost = members.n - found.reduce((n, [, own]) => n + own.length, 0);
    const unknown = lost > 0 ? `. Of ${whole(lost)} it is not known where they lie` : "";
    raylatent.page.$("sheet-told").textContent =
      `${what}: ${about}${counted(members.n, "tile")} of ${counted(found.length, "slide")}${most}${unknown}.`;
    raylatent.page.$("sheet-slides").replaceChildren(...cards);
    raylatent.page.$("sheet").showModal();
  }
  /** Shows where the selection lies, or what the filter leaves if nothing is selected. */
  async function open() {
    const { members, rings, labels, slides } = raylatent.now;
    if (members) return show(members, "Selected");
    if (rings.length > 0) throw new Error("Which tiles are selected is not known here: `raylatent select --to slides`.");
    const found = await selection.membersOf(EVERYWHERE, (block, i) =>
      (!labels || labels.has(block.label[i])) && (!slides || slides.has(block.slide[i])));
    return show(found, labels || slides ? "What the filter leaves" : "All tiles of the map");
  }
  /** Shows where the tiles of a cell lie. @param {CellId} cell */
  const ofCell = async (cell) => show(await selection.inCell(cell), "The cell");
  return { MOST_SLIDES, bySlide, extentOf, open, ofCell };
})();

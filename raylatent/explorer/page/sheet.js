"use strict";
// Where on their slides tiles lie: the slides with most of them beside one another, in the colors of the map.
raylatent.sheet = (() => {
  const { $, color, data, panel, save, selection } = raylatent;
  const { counted, el, whole } = panel;
  const MOST_SLIDES = 60;
  const CARD_PX = 220;
  /** What is shown of a slide [x, y, width, height] in level-0 pixels: all, or where its tiles lie. @param {any} slide
   * @param {Members} members @param {number} from @param {number} to */
  function extentOf(slide, members, from, to) {
    if (slide.width) return [0, 0, slide.width, slide.height];
    const margin = slide.window_px ?? 1;
    const ends = [members.loc_x, members.loc_y].map((of) => of.subarray(from, to).reduce(
      ([low, high], v) => v === data.NO_I4 ? [low, high] : [Math.min(low, v - margin), Math.max(high, v + margin)],
      [Infinity, -Infinity]));
    return [ends[0][0], ends[1][0], ends[0][1] - ends[0][0], ends[1][1] - ends[1][0]];
  }
  /** A slide with its tiles. @param {number[]} part @param {Members} members @param {Uint32Array} colors of them */
  async function cardOf([id, from, to], members, colors) {
    const slide = raylatent.now.meta.slides[id];
    const [x, y, w, h] = extentOf(slide, members, from, to);
    const scale = CARD_PX / Math.max(w, h);
    const [width, height] = [w, h].map((v) => Math.max(1, Math.round(v * scale)));
    const told = `${slide.name}: ${counted(to - from, "tile")}`;
    const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { width, height, role: "img", "aria-label": told }));
    const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = slide.thumbnail && slide.width ? await panel.picture(`slides/${id}.jpg`) : null;
    if (image) ctx.drawImage(image, 0, 0, width, height);
    const side = Math.max(3, (slide.window_px ?? 0) * scale);
    ctx.lineWidth = 2;
    for (let i = from; i < to; i += 1) {
      if (members.loc_x[i] === data.NO_I4) continue;
      const [left, top] = [(members.loc_x[i] - x) * scale - side / 2, (members.loc_y[i] - y) * scale - side / 2];
      ctx.fillStyle = color.css(colors[i], side > 6 ? 0.2 : 0.9); // tissue is seen through large ones
      ctx.fillRect(left, top, side, side);
      ctx.strokeStyle = color.css(colors[i]);
      if (side > 6) ctx.strokeRect(left + 1, top + 1, side - 2, side - 2);
    }
    const [tile, loc_x, loc_y] = [members.tile, members.loc_x, members.loc_y].map((of) => of[from]);
    return el("li", { "data-slide": slide.name, "data-n": to - from }, canvas, el("p", {}, told),
      raylatent.slide.button({ slide: id, tile, loc_x, loc_y, x: NaN, y: NaN }) ?? "");
  }
  /** Shows the slides of tiles. @param {Members} members @param {string} what they are */
  async function show(members, what) {
    const { meta, by, regions, store } = raylatent.now;
    const found = save.bySlide(members).sort((a, b) => (b[2] - b[1]) - (a[2] - a[1]) || a[0] - b[0]);
    const colors = color.paint(meta, by, meta.levels[0], regions, members, false);
    const shown = found.slice(0, MOST_SLIDES);
    const cards = await Promise.all(shown.map((part) => cardOf(part, members, colors)));
    if (raylatent.now.store !== store) return;
    const lost = save.withoutPlace(members);
    const sample = meta.points.kind !== "all" && members.label; // what a server tells has none
    $("sheet-told").textContent = `${what}: ${sample ? "of the sample in this folder, " : ""}` +
      `${counted(members.n, "tile")} of ${counted(found.length, "slide")}` +
      (found.length > shown.length ? `; the ${shown.length} slides with most of them are shown.` : ".") +
      (lost > 0 ? ` Of ${whole(lost)} it is not known where they lie.` : "");
    $("sheet-slides").replaceChildren(...cards);
    $("sheet").showModal();
  }
  /** Shows where the selection lies, or what the filter leaves if nothing is selected. */
  async function open() {
    const { members, rings, labels, slides } = raylatent.now;
    if (members) return show(members, "Selected");
    if (rings.length > 0) {
      throw new Error("Which tiles are selected is not known here: use `raylatent select --to slides`.");
    }
    const left = await selection.membersOf([-Infinity, -Infinity, Infinity, Infinity], ({ label, slide }, i) =>
      (!labels || labels.has(label[i])) && (!slides || slides.has(slide[i])));
    return show(left, labels || slides ? "What the filter leaves" : "All tiles of the map");
  }
  /** Shows where the tiles of a cell lie. @param {CellId} cell */
  const ofCell = async (cell) => show(await selection.inCell(cell), "The cell");
  return { extentOf, open, ofCell };
})();

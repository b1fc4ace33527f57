"use strict";
// What one cell is: its tile, the slide, its numbers, and the list of all its tiles.
/**
 * @typedef {{slide: number, tile: number, loc_x: number, loc_y: number, x: number,
 *   y: number, picture?: number, slot?: number, width?: number, height?: number}} Tile
 */

raylatent.panel = (() => {
  const { cells, color, data, geometry, selection } = raylatent;
  const AT_ONCE = 50;
  const MOST_BARS = 25;
  const THUMBNAIL_PX = 280;
  const TILE_COLUMNS = ["slide", "tile", "loc_x", "loc_y", "x", "y", "picture", "slot", "width", "height"];
  /** An element; texts become text, never markup. @param {string} tag @param {Record<string, any>} about attributes,
   * and on… for what happens @param {(Node | string | number | null)[]} children @returns {HTMLElement} */
  function el(tag, about, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(about)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== null && value !== false) made.setAttribute(name, String(value));
    }
    for (const child of children) {
      if (child !== null) made.append(typeof child === "number" ? String(child) : child);
    }
    return made;
  }

  /** @param {Block} block @param {number} i */
  const tileIn = (block, i) => /** @type {Tile} */ (Object.fromEntries(TILE_COLUMNS.map((name) => [name, block[name][i]])));
  const whole = (/** @type {number} */ v) => v.toLocaleString("en");
  /** @param {number} n @param {string} what */
  const counted = (n, what) => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;
  const short = (/** @type {number} */ v) => Number.isFinite(v) ? String(Number(v.toPrecision(4))) : "not known";
  /** Terms and what they are; null is left out. @param {[string, any][]} facts */
  const factsOf = (facts) => el("dl", {}, ...facts.filter(([, value]) => value !== null)
    .flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
  /** A button that reads as a link. @param {string} text @param {() => void} act @param {Record<string, any>} [about] */
  const link = (text, act, about) => el("button", { type: "button", class: "plain", onclick: act, ...about }, text);
  /** A table. @param {string[]} heads @param {(Node | string)[][]} rows */
  const tableOf = (heads, rows) => el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((one) => el("td", {}, one))))));
  /** Counts as bars, the most first. @param {Iterable<[number, number]>} counts of numbers @param {string[]} names of
   * the numbers @param {string[]} colors @param {number} n of all */
  const countsOf = (counts, names, colors, n) => barsOf([...counts]
    .filter(([i, count]) => names[i] !== undefined && count > 0).sort((a, b) => b[1] - a[1])
    .slice(0, MOST_BARS).map(([i, count]) => ({
      name: names[i], color: colors[i], share: count / n,
      text: `${whole(count)} (${Math.round((100 * count) / n)} %)`,
    })));
  /** Bars with their texts. @param {{name: string, color: string, share: number, text: string}[]} bars */
  function barsOf(bars) {
    return el("ul", { class: "bars" }, ...bars.map((one) => {
      const bar = el("span", { class: "bar" });
      bar.style.width = `${Math.max(1, 100 * one.share)}%`;
      bar.style.background = one.color;
      return el("li", {}, bar, el("span", {}, `${one.name}: ${one.text}`));
    }));
  }
  /** A picture, when it has come. @param {string} path @returns {Promise<HTMLImageElement | null>} */
  function picture(path) {
    return new Promise((done) => {
      const image = new Image();
      image.onload = () => done(image);
      image.onerror = () => done(null);
      image.src = raylatent.now.store.base + path;
    });
  }
  /** Part of a picture as an own element, shown as large as it is. @param {HTMLImageElement} image @param {number[]}
   * part left, top, width, height @param {number} width @param {number} height @param {string} label */
  function cut(image, part, width, height, label) {
    const about = { width, height, role: "img", "aria-label": label, class: "tile" };
    const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", about));
    const [x, y, w, h] = part;
    canvas.getContext("2d")?.drawImage(image, x, y, w, h, 0, 0, width, height);
    return canvas;
  }
  /** The tile as large as it is here, and what to know. @param {Tile} tile @param {CellId | null} cell on the map */
  async function pictureOf(tile, cell) {
    const { meta, served } = raylatent.now;
    const label = `Tile ${tile.tile} of slide ${meta.slides[tile.slide].name}`;
    if (tile.picture !== undefined && tile.picture !== data.NO_U4) {
      const path = `tiles/${Math.floor(tile.picture / 100)}/${tile.picture}.jpg`;
      const image = await picture(path);
      const slot = Number(tile.slot);
      const [w, h] = [Number(tile.width), Number(tile.height)];
      // Four slots a row, each as large as the largest tile of the picture.
      const size = (image?.naturalWidth ?? 0) / 4;
      if (image) return [cut(image, [(slot % 4) * size, (slot >> 2) * size, w, h], w, h, label)];
    }
    if (served) {
      const image = await picture(`tile/${tile.slide}/${tile.tile}.jpg`);
      if (image) {
        const [w, h] = [image.naturalWidth, image.naturalHeight];
        return [cut(image, [0, 0, w, h], w, h, label)];
      }
    }
    const why = "This tile is not stored at its own size here; `raylatent serve` shows it.";
    const note = el("p", { class: "note" }, why);
    if (!cell) return [note];
    const across = geometry.gridOf(cell.level) / 8;
    const dzi = cell.level + Math.ceil(Math.log2(8 * meta.cell_px));
    const top = across - 1 - (cell.row >> 3);
    const image = await picture(`mosaic_files/${dzi}/${cell.col >> 3}_${top}.jpg`);
    if (!image) return [note];
    const px = meta.cell_px;
    const part = [(cell.col & 7) * px, (7 - (cell.row & 7)) * px, px, px];
    return [cut(image, part, 2 * px, 2 * px, `${label}, enlarged from the map`), note];
  }
  /** A slide's thumbnail with the tile framed and the selection's tiles on it. @param {Tile} tile */
  async function placeOf(tile) {
    const { meta, members } = raylatent.now;
    const slide = meta.slides[tile.slide];
    if (!slide.thumbnail || !slide.width || tile.loc_x === data.NO_I4) return null;
    const image = await picture(`slides/${tile.slide}.jpg`);
    if (!image) return null;
    const height = Math.round((THUMBNAIL_PX * image.naturalHeight) / image.naturalWidth);
    const all = [0, 0, image.naturalWidth, image.naturalHeight];
    const canvas = cut(image, all, THUMBNAIL_PX, height, `Where the tile lies in slide ${slide.name}`);
    const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const scale = THUMBNAIL_PX / slide.width;
    const side = Math.max(2, (slide.window_px ?? 0) * scale);
    ctx.fillStyle = "rgba(0,114,178,0.6)";
    for (let i = 0; members && i < members.n; i += 1) {
      if (members.slide[i] !== tile.slide) continue;
      const [x, y] = [members.loc_x[i] * scale, members.loc_y[i] * scale];
      ctx.fillRect(x - side / 2, y - side / 2, side, side);
    }
    ctx.strokeStyle = "#C0006A";
    ctx.lineWidth = 3;
    const frame = Math.max(12, side + 4);
    const [x, y] = [tile.loc_x * scale, tile.loc_y * scale];
    ctx.strokeRect(x - frame / 2, y - frame / 2, frame, frame);
    return canvas;
  }
  /** One coordinate in pixels and, where it is known, µm. @param {number} v @param {any} slide */
  const coordinate = (v, slide) => v === data.NO_I4 ? "not known"
      : `${v} px${slide.mpp ? ` (${whole(Math.round(v * slide.mpp * 10) / 10)} µm)` : ""}`;
  /** What is known of one tile. @param {Tile} tile @param {CellId | null} cell */
  async function tileOf(tile, cell) {
    const slide = raylatent.now.meta.slides[tile.slide];
    const facts = factsOf([
      ["Slide", slide.name], ["Tile", String(tile.tile)], ["x", coordinate(tile.loc_x, slide)],
      ["y", coordinate(tile.loc_y, slide)], ["Side", slide.tile_um ? `${short(slide.tile_um)} µm` : null],
    ]);
    const [pictures, place] = await Promise.all([pictureOf(tile, cell), placeOf(tile)]);
    return el("div", {}, ...pictures, facts, place, raylatent.slide.button(tile));
  }
  /** Why a cell shows its tile. @param {Block} block @param {number} i @param {number} level */
  function whyOf(block, i, level) {
    const [since, of, tied] = [block.level[i], block.of[i], block.tied[i]];
    const kept = since < level ? `kept from level ${since}, ` : "";
    if (of === 1) return `${kept}the only tile in the cell`;
    const last = tied > 1 ? `; ${whole(tied)} tiles are equally near, and one was drawn by lot` : "";
    const away = `${block.distance[i].toFixed(2)} cells away, of ${whole(of)} tiles`;
    return `${kept}nearest to the cell's center, ${away}${last}`;
  }
  /** The cell's numbers. @param {Block} block @param {number} i @param {number} level */
  function numbersOf(block, i, level) {
    const { labels, classes, slides } = raylatent.now.meta;
    const n = block.tiles[i];
    /** @type {[number, number][]} */
    const counts = Array.from(labels.names, (_, l) => [l, block[`count_${l}`]?.[i] ?? 0]);
    const means = Array.from(classes.length <= 64 ? classes : [], (name, c) => {
      const share = block[`mean_${c}`][i];
      return { name: String(name), color: color.ofCategory(c), share, text: share.toFixed(3) };
    });
    const most = slides[block.top_slide[i]]?.name ?? "not known";
    return el("div", {}, factsOf([
        ["Tiles in this cell", whole(n)],
        ["Slides", `${whole(block.slides[i])}; most tiles are from ${most} (${Math.round(100 * block.top_share[i])} %)`],
        ["Mean novelty", Number.isFinite(block.novelty[i]) ? short(block.novelty[i]) : null],
        ["Why this tile", whyOf(block, i, level)],
      ]),
      ...(counts.length > 0 ? [el("h3", {}, `Labels (${labels.column})`)] : []),
      countsOf(counts, labels.names, labels.colors, n),
      ...(means.length > 0 ? [el("h3", {}, "Mean predictions"), barsOf(means)] : []));
  }
  /** All tiles of the cell, the nearest first. @param {CellId} cell @param {Block} block @param {number} i */
  async function tilesOf(cell, block, i) {
    const { meta, served } = raylatent.now;
    if (meta.points.kind !== "all" && served) {
      const told = await selection.fromServer({ cell: [cell.level, cell.row, cell.col] });
      const ids = new Map(Array.from(meta.slides, (/** @type {any} */ slide, id) => [slide.name, id]));
      const place = { loc_x: data.NO_I4, loc_y: data.NO_I4, x: NaN, y: NaN, far: 0 };
      return (told.rows ?? []).map(([name, tile]) => ({ ...place, slide: ids.get(name) ?? 0, tile }));
    }
    const members = await selection.inCell(cell);
    return Array.from(members.slide, (slide, m) => ({
      slide, tile: members.tile[m], loc_x: members.loc_x[m], loc_y: members.loc_y[m],
      x: members.x[m], y: members.y[m], far: Math.hypot(members.x[m] - block.x[i], members.y[m] - block.y[i]),
    })).sort((a, b) => a.far - b.far);
  }
  /** The picture of a tile at its own size, if the deepest cell shows it, and so it may be stored. @param {Tile} tile */
  async function shownOf({ slide, tile, x, y }) {
    const level = cells.deepest();
    const found = await cells.find({ level, ...geometry.cellOf(raylatent.now.frame, x, y, level) });
    const own = found && found.block.slide[found.i] === slide && found.block.tile[found.i] === tile;
    return own ? tileIn(found.block, found.i) : {};
  }
  /** The list of the cell's tiles, 50 at a time. @param {CellId} cell @param {Block} block @param {number} i
   * @param {HTMLElement} shown where a chosen tile is shown */
  function listOf(cell, block, i, shown) {
    const { meta, served } = raylatent.now;
    const list = el("ol", { class: "tiles" });
    const note = el("p", { class: "note", role: "status" });
    /** @type {(Tile & {far: number})[] | null} */
    let tiles = null;
    const press = () => raylatent.page.guard(next());
    const more = el("button", { type: "button", onclick: press }, "List the tiles of this cell");
    async function next() {
      tiles ??= await tilesOf(cell, block, i);
      const start = list.childElementCount;
      tiles.slice(start, start + AT_ONCE).forEach((tile) => {
        const { name } = meta.slides[tile.slide];
        const show = async () => {
          raylatent.now.marked = Number.isFinite(tile.x) ? [tile.x, tile.y] : null;
          raylatent.page.redraw();
          const own = Number.isFinite(tile.x) ? await shownOf(tile) : {};
          shown.replaceChildren(await tileOf({ ...tile, ...own }, null));
          shown.scrollIntoView({ block: "nearest" });
          raylatent.page.say(`Tile ${tile.tile} of slide ${name}.`);
        };
        list.append(el("li", {}, link(`${name}, tile ${tile.tile}`, () => raylatent.page.guard(show()),
          { "data-slide": name, "data-tile": tile.tile })));
      });
      const left = tiles.length - list.childElementCount;
      more.textContent = `List ${Math.min(AT_ONCE, left)} more`;
      more.hidden = left <= 0;
      const sample = meta.points.kind !== "all" && !served;
      const listed = whole(list.childElementCount);
      note.textContent = `${listed} of ${whole(tiles.length)} tiles, the nearest first.` +
        (sample ? " They are of the sample in this folder; `raylatent serve` lists all." : "");
    }
    const sheet = el("button", { type: "button", onclick: () => raylatent.page.guard(raylatent.sheet.ofCell(cell)) },
      "Where on the slides");
    return el("div", {}, el("h3", {}, "Tiles of this cell"), list, note, more, sheet);
  }
  /** Shows a cell, or closes the panel. @param {CellId | null} cell */
  async function open(cell) {
    const { now, page } = raylatent;
    const panel = page.$("panel");
    Object.assign(now, { cell, marked: null });
    const found = cell ? await cells.find(cell).catch((error) => {
      panel.hidden = true; // it was another cell's
      throw error;
    }) : null;
    if (now.cell !== cell) return;
    if (!cell || !found) {
      panel.hidden = true;
      Object.assign(now, { cell: null, similar: [] });
      page.changed();
      if (cell) page.say("No tile lies in this cell.");
      return;
    }
    page.changed();
    const { block, i } = found;
    const tile = tileIn(block, i);
    const shown = el("div", {}, await tileOf(tile, cell));
    if (now.cell !== cell) return;
    Object.assign(panel.dataset, { level: cell.level, row: cell.row, col: cell.col,
      slide: now.meta.slides[tile.slide].name, tile: tile.tile, n: block.tiles[i] });
    page.$("panel-body").replaceChildren(shown, numbersOf(block, i, cell.level), raylatent.similar(tile) ?? "",
      listOf(cell, block, i, shown));
    panel.hidden = false;
    page.uncover(cell);
    page.say(`Cell with ${counted(block.tiles[i], "tile")}; tile ${tile.tile} of ${panel.dataset.slide}.`);
  }
  return { el, picture, whole, counted, short, factsOf, link, tableOf, countsOf, open };
})();

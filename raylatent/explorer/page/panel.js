"use strict";
// What one cell is: its tile, the slide, its numbers, and the list of all its tiles.
raylatent.panel = (() => {
  const { $, cells, color, data, geometry, selection } = raylatent;
  const [AT_ONCE, MOST_BARS, THUMBNAIL_PX] = [50, 25, 280];
  /** An element; texts become text, never markup. @param {string} tag @param {Record<string, any>} about attributes,
   * the style, and on… for what happens @param {(Node | string)[]} children @returns {HTMLElement} */
  function el(tag, about, ...children) {
    const { style = {}, ...rest } = about;
    const made = document.createElement(tag);
    Object.assign(made.style, style);
    for (const [name, value] of Object.entries(rest)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, String(value));
    }
    made.append(...children);
    return made;
  }
  const whole = (/** @type {number} */ v) => v.toLocaleString("en");
  const percent = (/** @type {number} */ share) => `${Math.round(100 * share)} %`;
  /** @param {number} n @param {string} what */
  const counted = (n, what) => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;
  const short = (/** @type {number} */ v) => Number.isFinite(v) ? String(Number(v.toPrecision(4))) : "not known";
  /** Terms and what they are; null is left out. @param {[string, any][]} facts */
  const factsOf = (facts) => el("dl", {}, ...facts.filter(([, value]) => value !== null)
    .flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
  const note = (/** @type {string} */ text) => el("p", { class: "note" }, text);
  /** Puts new contents into a box: a focus in it stays at the button of the same text, or else in the box.
   * @param {HTMLElement} box @param {(Node | string)[]} children */
  function fill(box, ...children) {
    const had = box.contains(document.activeElement) && document.activeElement?.textContent;
    box.replaceChildren(...children);
    if (had === false) return;
    const same = Array.from(box.querySelectorAll("button")).find((button) => button.textContent === had);
    box.tabIndex = -1;
    (same ?? box).focus();
  }
  /** A button; what goes wrong is said. @param {string} text @param {() => any} act @param {any} [about] */
  const button = (text, act, about) =>
    el("button", { type: "button", onclick: () => raylatent.page.guard(Promise.resolve(act())), ...about }, text);
  /** A button that reads as a link. @param {string} text @param {() => any} act @param {any} [about] */
  const link = (text, act, about) => button(text, act, { class: "plain", ...about });
  /** What brings one to a cell. @param {CellId} id @param {(id: CellId) => void} go */
  const cellLink = (id, go) => link(`${id.row}, ${id.col}`, () => go(id));
  /** A table of cells, whose numbers come first. @param {string[]} heads @param {(Node | string)[][]} rows */
  const tableOf = (heads, rows) => el("table", {},
    el("caption", { class: "note" }, "Cells by row and column, from the lower left."),
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((one) => el("td", {}, one))))));
  /** Counts as bars, most first. @type {(counts: any, names: string[], colors: string[], n: number) => HTMLElement} */
  const countsOf = (counts, names, colors, n) => barsOf([...counts]
    .filter(([i, count]) => names[i] !== undefined && count > 0).sort((a, b) => b[1] - a[1]).slice(0, MOST_BARS)
    .map(([i, count]) => [`${names[i]}: ${whole(Math.round(count))} (${percent(count / n)})`, colors[i], count / n]));
  /** Bars with their texts, colors and shares. @param {[string, string, number][]} bars */
  const barsOf = (bars) => el("ul", { class: "bars" }, ...bars.map(([text, background, share]) => el("li", {},
    el("span", { class: "bar", style: { background, width: `${Math.max(1, 100 * share)}%` } }), text)));
  /** What has a title, where there is something. @param {string} title @param {HTMLElement} list */
  const titled = (title, list) => list.childElementCount > 0 ? el("div", {}, el("h3", {}, title), list) : "";
  /** A picture, when it has come. @param {string} path @returns {Promise<HTMLImageElement | null>} */
  async function picture(path) {
    const image = new Image();
    image.src = raylatent.now.store.base + path;
    return image.decode().then(() => image, () => null);
  }
  /** A picture or a part of it as an own element. @param {HTMLImageElement} image @param {number[] | null} part left,
   * top, width, height @param {number} width of the element @param {string} label */
  function cut(image, part, width, label) {
    const [x, y, w, h] = part ?? [0, 0, image.naturalWidth, image.naturalHeight];
    const height = Math.round((width * h) / w);
    const about = { width, height, role: "img", "aria-label": label, class: "tile" };
    const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", about));
    canvas.getContext("2d")?.drawImage(image, x, y, w, h, 0, 0, width, height);
    return canvas;
  }
  /** The tile as large as it is here, and what to know. @param {Tile} tile @param {CellId | null} cell on the map */
  async function pictureOf(tile, cell) {
    const { meta, served } = raylatent.now;
    const label = `Tile ${tile.tile} of slide ${meta.slides[tile.slide].name}`;
    const stored = cells.storedOf(tile);
    const image = stored && (await picture(stored.path));
    if (image) return [cut(image, stored.partOf(image), stored.partOf(image)[2], label)];
    const own = served && (await picture(`tile/${tile.slide}/${tile.tile}.jpg`));
    if (own) return [cut(own, null, own.naturalWidth, label)];
    const why = note("This tile is not stored at its own size here; `raylatent serve` shows it.");
    const top = cell ? geometry.gridOf(cell.level) / 8 - 1 - (cell.row >> 3) : 0;
    const drawn = cell && (await picture(cells.pathOf(cell.level, cell.col >> 3, top)));
    if (!drawn) return [why];
    const px = meta.cell_px;
    const part = [(cell.col & 7) * px, (7 - (cell.row & 7)) * px, px, px];
    return [cut(drawn, part, 2 * px, `${label}, enlarged from the map`), why];
  }
  /** A slide's thumbnail with the tile framed and the selection's tiles on it. @param {Tile} tile */
  async function placeOf(tile) {
    const slide = raylatent.now.meta.slides[tile.slide];
    if (!slide.thumbnail || !slide.width || tile.loc_x === data.NO_I4) return null;
    const image = await picture(`slides/${tile.slide}.jpg`);
    if (!image) return null;
    const canvas = cut(image, null, THUMBNAIL_PX, `Where the tile lies in slide ${slide.name}`);
    const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const scale = THUMBNAIL_PX / slide.width;
    ctx.scale(scale, scale);
    squares(ctx, tile, scale);
    return canvas;
  }
  /** The selection's tiles of a tile's slide as squares, and the tile framed. @param {CanvasRenderingContext2D} ctx in
   * level-0 pixels @param {Tile} tile @param {number} scale how many pixels of the screen such a pixel has */
  function squares(ctx, tile, scale) {
    const { members, meta } = raylatent.now;
    const draw = (/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ least) => {
      const side = Math.max(meta.slides[tile.slide].window_px ?? 0, least / scale);
      ctx.strokeRect(x - side / 2, y - side / 2, side, side);
    };
    [ctx.strokeStyle, ctx.lineWidth] = ["#0072B2", 1.5 / scale];
    for (let i = 0; members && i < members.n; i += 1) {
      if (members.slide[i] === tile.slide) draw(members.loc_x[i], members.loc_y[i], 2);
    }
    [ctx.strokeStyle, ctx.lineWidth] = ["#C0006A", 3 / scale];
    draw(tile.loc_x, tile.loc_y, 12);
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
    return el("div", {}, ...pictures, facts, place ?? "", raylatent.slide.button(tile) ?? "");
  }
  /** Why a cell shows its tile. @param {Block} block @param {number} i @param {number} level */
  function whyOf(block, i, level) {
    const [since, of, tied] = [block.level[i], block.of[i], block.tied[i]];
    const grid = geometry.gridOf(since);
    const kept = since < level ? `chosen on the grid of ${grid} x ${grid}, ` : "";
    if (of === 1) return `${kept}the only tile in its cell`;
    const last = tied > 1 ? `; ${whole(tied)} tiles are equally near, and one was drawn by lot` : "";
    const far = `${block.distance[i].toFixed(2)} cells away`;
    return `${kept}nearest to the cell's center of ${whole(of)} tiles, ${far}${last}`;
  }
  /** The cell's numbers. @param {Block} block @param {number} i @param {number} level */
  function numbersOf(block, i, level) {
    const { labels, classes, slides } = raylatent.now.meta;
    const n = block.tiles[i];
    const counts = Array.from(labels.names, (_, l) => [l, block[`count_${l}`]?.[i] ?? 0]);
    const means = Array.from(classes.length <= 64 ? classes : [], (name, c) => {
      const share = block[`mean_${c}`][i];
      return /** @type {[string, string, number]} */ ([`${name}: ${share.toFixed(3)}`, color.ofCategory(c), share]);
    });
    const most = slides[block.top_slide[i]]?.name ?? "not known";
    return el("div", {}, el("h3", {}, "The cell"), factsOf([
      ["Tiles", whole(n)],
      ["Slides", `${whole(block.slides[i])}; most tiles are from ${most} (${percent(block.top_share[i])})`],
      ["Mean novelty", Number.isFinite(block.novelty[i]) ? short(block.novelty[i]) : null],
      ["Why this tile", whyOf(block, i, level)],
    ]),
    titled(`Labels (${labels.column})`, countsOf(counts, labels.names, labels.colors, n)),
    titled("Mean predictions", barsOf(means)));
  }
  /** What finds the cells whose tiles are nearest in activation space. @param {Tile} tile */
  function similarOf(tile) {
    const { now, now: { meta, frame, store }, page } = raylatent;
    const level = meta.similar;
    if (!Number.isInteger(level)) return "";
    const grid = geometry.gridOf(level);
    const list = el("ol", { class: "similar" });
    const find = async () => {
      const block = await store.load(`similar/${level}`);
      const { row, col } = geometry.cellOf(frame, tile.x, tile.y, level);
      const at = geometry.lowerBound(block.cell, row * grid + col);
      if (block.cell[at] !== row * grid + col) throw new Error("No similar cells are known for this cell.");
      const ids = Array.from({ length: 12 }, (_, k) => block[`s${k}`][at]).filter((id) => id !== data.NO_U4);
      now.similar = ids.map((id) => ({ level, row: Math.floor(id / grid), col: id % grid }));
      list.replaceChildren(...(await Promise.all(now.similar.map(async (/** @type {CellId} */ id) => {
        const found = await cells.find(id);
        const name = found ? `${meta.slides[found.block.slide[found.i]].name}, tile ${found.block.tile[found.i]}` : "";
        return el("li", {}, link(name, () => page.go(id), { "data-row": id.row, "data-col": id.col }));
      }))));
      page.say(`${counted(ids.length, "similar cell")}: ringed on the map, the most similar first.`);
      page.changed();
    };
    return el("div", {}, el("h3", {}, "Similar cells"), button("Find similar cells", find, { id: "similar" }), list);
  }
  /** All tiles of the cell, the nearest first. @param {CellId} cell @param {Block} block @param {number} i */
  async function tilesOf(cell, block, i) {
    const members = await selection.inCell(cell);
    const far = (/** @type {Tile} */ tile) => Math.hypot(tile.x - block.x[i], tile.y - block.y[i]);
    return Array.from(members.slide, (slide, m) => ({ slide, tile: members.tile[m], loc_x: members.loc_x[m],
      loc_y: members.loc_y[m], x: members.x[m], y: members.y[m] })).sort((a, b) => far(a) - far(b));
  }
  /** Where a tile is stored at its own size: only where its deepest cell shows it. @param {Tile} tile */
  async function shownOf({ slide, tile, x, y }) {
    const level = cells.deepest();
    const found = await cells.find({ level, ...geometry.cellOf(raylatent.now.frame, x, y, level) });
    const own = found && found.block.slide[found.i] === slide && found.block.tile[found.i] === tile;
    return own ? cells.tileIn(found.block, found.i) : {};
  }
  /** The list of the cell's tiles, 50 at a time. @param {CellId} cell @param {Block} block @param {number} i
   * @param {HTMLElement} shown where a chosen tile is shown */
  function listOf(cell, block, i, shown) {
    const { meta, served } = raylatent.now;
    const [list, told] = [el("ol", { class: "tiles" }), el("p", { class: "note", role: "status" })];
    /** @type {Tile[] | null} */
    let tiles = null;
    const more = button("List the tiles of this cell", next);
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
        const about = { "data-slide": name, "data-tile": tile.tile };
        list.append(el("li", {}, link(`${name}, tile ${tile.tile}`, show, about)));
      });
      const left = tiles.length - list.childElementCount;
      more.textContent = `List ${Math.min(AT_ONCE, left)} more`;
      more.hidden = left <= 0;
      if (more.hidden) list.querySelectorAll("button")[start]?.focus(); // the first of those that came
      told.textContent = `${whole(list.childElementCount)} of ${whole(tiles.length)} tiles` +
        (Number.isNaN(tiles[0]?.x) ? "." : ", the nearest first.") +
        (meta.points.kind === "all" || served ? ""
          : " They are of the sample in this folder; `raylatent serve` lists all.");
    }
    return el("div", {}, el("h3", {}, "Tiles of this cell"), list, told, more,
      button("Where on the slides", () => raylatent.sheet.ofCell(cell)));
  }
  /** Shows a cell, or closes the panel. @param {CellId | null} cell */
  async function open(cell) {
    const { now, page } = raylatent;
    const panel = $("panel");
    Object.assign(now, { cell, marked: null });
    const found = cell && (await cells.find(cell).catch((error) => {
      panel.hidden = true; // it was another cell's
      throw error;
    }));
    if (now.cell !== cell) return;
    if (!found) {
      panel.hidden = true;
      Object.assign(now, { cell: null, similar: [] });
      page.changed();
      if (cell) page.say("No tile lies in this cell.");
      return;
    }
    page.changed();
    const { block, i } = found;
    const tile = cells.tileIn(block, i);
    const shown = el("div", {}, await tileOf(tile, cell));
    if (now.cell !== cell) return;
    Object.assign(panel.dataset, { level: cell.level, row: cell.row, col: cell.col,
      slide: now.meta.slides[tile.slide].name, tile: tile.tile, n: block.tiles[i] });
    fill($("panel-body"), shown, numbersOf(block, i, cell.level), similarOf(tile), listOf(cell, block, i, shown));
    panel.hidden = false;
    page.uncover(cell);
    page.say(`Cell with ${counted(block.tiles[i], "tile")}; tile ${tile.tile} of ${panel.dataset.slide}.`);
  }
  return {
    el, picture, whole, counted, short, factsOf, note, fill, button, link, cellLink, tableOf, countsOf, titled, squares,
    open,
  };
})();

"use strict";
// The cells and points of the map that are here, and what filters leave of them.
/**
 * @typedef {{level: number, row: number, col: number}} CellId
 * @typedef {{slide: number, tile: number, loc_x: number, loc_y: number, x: number, y: number, picture?: number,
 *   slot?: number, width?: number, height?: number}} Tile
 */
raylatent.cells = (() => {
  const { data, geometry, color } = raylatent;
  const MOST_POINTS = 2_000_000;
  const OTHERS = 0xffd8d8d8; // the color of points that are not of a selection carried over
  const TILE_COLUMNS = ["slide", "tile", "loc_x", "loc_y", "x", "y", "picture", "slot", "width", "height"];
  /** The deepest level whose tiles are told by slide. */
  const lastOfSlides = () => raylatent.now.meta.levels.findLastIndex((/** @type {any} */ level) => level.slides);
  const deepest = () => raylatent.now.meta.levels.length - 1;
  /** A server draws levels that were not written. */
  const deepestPicture = () => (raylatent.now.served ? Math.max(13, deepest()) : deepest());
  /** The number of the block that may hold a code. @param {number} level @param {number} code */
  const blockNumber = (level, code) => Math.max(0,
    raylatent.now.meta.levels[level].blocks.findLastIndex((/** @type {any} */ block) => block.first <= code));
  /** The codes of a block's cells, ascending. @param {Block} block @returns {Float64Array} */
  function codes(block) {
    const code = (/** @type {number} */ row, /** @type {number} */ i) => geometry.morton(row, block.col[i]);
    return (block.codes ??= Float64Array.from(block.row, code));
  }
  /** The cells of the level in a square of 8 x 8: parts of blocks that are here. @param {number} level
   * @param {number} groupRow from the bottom @param {number} groupCol */
  function inGroup(level, groupRow, groupCol) {
    const { meta, store } = raylatent.now;
    const first = geometry.morton(8 * groupRow, 8 * groupCol);
    const parts = [];
    if (meta.levels[level].blocks.length === 0) return [];
    const last = blockNumber(level, first + 63);
    for (let b = blockNumber(level, first); b <= last; b += 1) {
      const block = store.block(`cells/${level}/${b}`);
      if (!block) continue;
      const from = geometry.lowerBound(codes(block), first);
      const to = geometry.lowerBound(codes(block), first + 64);
      if (to > from) parts.push({ block, from, to });
    }
    return parts;
  }
  /** A cell that is here: its block and its place in it, or null. @param {CellId} id */
  function here(id) {
    for (const { block, from, to } of inGroup(id.level, id.row >> 3, id.col >> 3)) {
      for (let i = from; i < to; i += 1) if (block.row[i] === id.row && block.col[i] === id.col) return { block, i };
    }
    return null;
  }
  /** A cell, when its block has come; null where no tile is. @param {CellId} id */
  async function find(id) {
    const { meta, store } = raylatent.now;
    if (meta.levels[id.level].blocks.length === 0) return null;
    const number = blockNumber(id.level, geometry.morton(id.row, id.col));
    await store.load(`cells/${id.level}/${number}`);
    return here(id);
  }
  /** A box of shares in map units. @param {number[]} box @returns {number[]} */
  function inUnits(box) {
    const { x0, y0, side } = raylatent.now.frame;
    const [left, bottom, right, top] = box;
    return [x0 + left * side, y0 + bottom * side, x0 + right * side, y0 + top * side];
  }
  /** The blocks of points that a box in map units meets, and how many points they have. @param {number[]} box */
  function pointsIn(box) {
    const { blocks } = raylatent.now.meta.points;
    const numbers = [...blocks.keys()].filter((b) => geometry.meet(blocks[b].bbox, box));
    return { numbers, n: numbers.reduce((n, b) => n + blocks[b].n, 0) };
  }
  /** Whether a filter is on. */
  const filtered = () => Boolean(raylatent.now.labels || raylatent.now.slides);
  /** Shows these only; null: all. @param {{labels?: Set<number> | null, slides?: Set<number> | null}} some */
  function filter(some) {
    Object.assign(raylatent.now, some, { filterVersion: raylatent.now.filterVersion + 1 });
    raylatent.page.changed();
  }
  /** How many tiles the filter of slides leaves each cell of a level: of a coarse one as `slides/<level>` tells, else
   * from the points. Null where they are a sample or too many. @param {number} level @param {boolean} coarse */
  function tallied(level, coarse) {
    const { store, frame, labels, meta, slides, filterVersion, view } = raylatent.now;
    const key = `${level}/${filterVersion}`;
    if (raylatent.now.tally?.key !== key) raylatent.now.tally = { key, seen: new Set(), counts: new Map() };
    const { seen, counts } = raylatent.now.tally;
    const points = pointsIn(inUnits(raylatent.camera.boxOf(view)));
    if (!coarse && (meta.points.kind !== "all" || points.n > MOST_POINTS)) return null;
    const grid = geometry.gridOf(level);
    for (const name of coarse ? [`slides/${level}`] : points.numbers.map((b) => `points/${b}`)) {
      const block = store.block(name);
      if (!block || seen.has(name)) continue;
      seen.add(name);
      for (let i = 0; i < block.n; i += 1) {
        if (!slides?.has(block.slide[i]) || (!coarse && labels && !labels.has(block.label[i]))) continue;
        const { row, col } = geometry.cellOf(frame, block.x?.[i], block.y?.[i], level);
        const cell = coarse ? block.cell[i] : row * grid + col;
        counts.set(cell, (counts.get(cell) ?? 0) + (coarse ? block.tiles[i] : 1));
      }
    }
    return coarse && seen.size === 0 ? null : counts;
  }
  /** How many tiles of each cell of a block have one of the labels. @param {Block} block @param {Set<number>} labels */
  function ofLabels(block, labels) {
    const unlabeled = labels.has(data.NO_U1); // all tiles, without those of labels that are not shown
    const counts = unlabeled ? Uint32Array.from(block.tiles) : new Uint32Array(block.n);
    for (let l = 0; block[`count_${l}`]; l += 1) {
      const times = Number(labels.has(l)) - Number(unlabeled);
      for (let i = 0; i < block.n; i += 1) counts[i] += times * block[`count_${l}`][i];
    }
    return counts;
  }
  /** How many tiles the filters leave each cell; null: there is none, or that is not known. @param {number} level
   * @param {Block} block */
  function left(level, block) {
    const { labels, slides, filterVersion } = raylatent.now;
    if (!filtered()) return null;
    const counts = slides && tallied(level, !labels && level <= lastOfSlides());
    if (slides && !counts) return null;
    const key = `${filterVersion}/${slides ? raylatent.now.tally.seen.size : ""}`;
    const grid = geometry.gridOf(level);
    const countOf = (/** @type {number} */ row, /** @type {number} */ i) => counts?.get(row * grid + block.col[i]) ?? 0;
    if (block.left?.key !== key) {
      block.left = { key, counts: counts ? Uint32Array.from(block.row, countOf) : ofLabels(block, labels) };
    }
    return block.left.counts;
  }
  /** A block's colors now; 0 is hidden. @param {Block} block @param {number} level @param {boolean} cells */
  function colors(block, level, cells) {
    const { meta, by, regions, regionsVersion, filterVersion, labels, slides, only } = raylatent.now;
    const key = `${by}/${level}/${regionsVersion}/${cells ? "" : filterVersion}/${Boolean(only)}`;
    if (block.painted?.key !== key) {
      const painted = color.paint(meta, by, meta.levels[level], regions, block, cells);
      const { keyOf } = raylatent.selection;
      for (let i = 0; !cells && (filtered() || only) && i < block.n; i += 1) {
        const hidden = (labels && !labels.has(block.label[i])) || (slides && !slides.has(block.slide[i]));
        if (hidden) painted[i] = 0;
        else if (only && !only.has(keyOf(block.slide[i], block.tile[i]))) painted[i] = OTHERS;
      }
      block.painted = { key, colors: painted };
    }
    return /** @type {Uint32Array} */ (block.painted.colors);
  }
  /** The picture of a square of 8 x 8 cells. @param {number} level @param {number} col @param {number} top */
  const pathOf = (level, col, top) =>
    `mosaic_files/${level + Math.ceil(Math.log2(8 * raylatent.now.meta.cell_px))}/${col}_${top}.jpg`;
  /** The tile that a cell shows. @param {Block} block @param {number} i */
  const tileIn = (block, i) =>
    /** @type {Tile} */ (Object.fromEntries(TILE_COLUMNS.map((name) => [name, block[name][i]])));
  /** Where a tile is stored at its own size, or null: a picture of four slots a row, each as large as its largest
   * tile, and [left, top, width, height] in it. @param {Tile} tile */
  function storedOf({ picture = data.NO_U4, slot = 0, width = 0, height = 0 }) {
    if (picture === data.NO_U4) return null;
    const partOf = (/** @type {HTMLImageElement} */ { naturalWidth: across }) =>
      [((slot % 4) * across) / 4, ((slot >> 2) * across) / 4, width, height];
    return { path: `tiles/${Math.floor(picture / 100)}/${picture}.jpg`, partOf };
  }
  /** Whether a square of 8 x 8 has a picture. @param {number} level @param {number} col @param {number} top */
  function hasPicture(level, col, top) {
    const { levels } = raylatent.now.meta;
    const up = Math.max(0, level - deepest());
    const known = levels[level - up];
    known.bits ??= data.bytesOf(known.pictures);
    const across = geometry.gridOf(level - up) / 8;
    return data.bit(known.bits, (top >> up) * across + (col >> up)) === 1;
  }
  return {
    MOST_POINTS, lastOfSlides, deepest, deepestPicture, inGroup, here, find, inUnits, pointsIn, filter, filtered, left,
    colors, hasPicture, pathOf, tileIn, storedOf,
  };
})();

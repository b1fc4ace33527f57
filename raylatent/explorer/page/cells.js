"use strict";
// The cells and points of the map that are here, and what filters leave of them.
/** @typedef {{level: number, row: number, col: number}} CellId */

raylatent.cells = (() => {
  const { data, geometry, color } = raylatent;
  const MOST_POINTS = 2_000_000;
  /** The deepest level whose tiles are told by slide. */
  const lastOfSlides = () => raylatent.now.meta.levels.findLastIndex((/** @type {any} */ level) => level.slides);

  const deepest = () => raylatent.now.meta.levels.length - 1;
  /** A server draws levels that were not written. */
  const deepestPicture = () => (raylatent.now.served ? Math.max(13, deepest()) : deepest());
  /** The first Morton codes of a level's blocks. @param {any} level */
  const firsts = (level) => (level.firsts ??= level.blocks.map((/** @type {any} */ block) => block.first));
  /** The number of the block that may hold a code. @param {number} level @param {number} code */
  function blockNumber(level, code) {
    const found = firsts(raylatent.now.meta.levels[level]);
    return Math.max(0, geometry.lowerBound(found, code + 1) - 1);
  }
  /** The codes of a block's cells, ascending. @param {Block} block @returns {Float64Array} */
  function codes(block) {
    const code = (/** @type {number} */ row, /** @type {number} */ i) => geometry.morton(row, block.col[i]);
    return (block.codes ??= Float64Array.from(block.row, code));
  }
  /** The cells of the level in a square of 8 x 8: parts of blocks that are here. @param {number} level
   * @param {number} groupRow from the bottom @param {number} groupCol @returns {{block: Block, from: number, to:
   * number}[]} */
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
    const code = geometry.morton(id.row, id.col);
    for (const { block } of inGroup(id.level, id.row >> 3, id.col >> 3)) {
      const i = geometry.lowerBound(codes(block), code);
      if (codes(block)[i] === code) return { block, i };
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
    /** @type {number[]} */
    const numbers = [];
    let n = 0;
    blocks.forEach((/** @type {any} */ block, /** @type {number} */ i) => {
      if (!geometry.meet(block.bbox, box)) return;
      numbers.push(i);
      n += block.n;
    });
    return { numbers, n };
  }
  /** The places of a block's points as shares, for drawing. @param {Block} block @param {Frame} frame */
  function sharesOf(block, frame) {
    const of = (/** @type {Float32Array} */ places, /** @type {number} */ from) =>
      Float32Array.from(places, (place) => (place - from) / frame.side);
    block.tx ??= of(block.x, frame.x0);
    block.ty ??= of(block.y, frame.y0);
    return block;
  }
  /** Whether a filter is on. */
  const filtered = () => Boolean(raylatent.now.labels || raylatent.now.slides);

  /** Shows these only; null: all. @param {Set<number> | null} labels @param {Set<number> | null} slides */
  function filter(labels, slides) {
    Object.assign(raylatent.now, { labels, slides, filterVersion: raylatent.now.filterVersion + 1 });
    raylatent.page.changed();
  }
  /** How many tiles of each cell of a level the filters leave, from the points that are here; null where too many are
   * in view. @param {number} level @returns {Map<number, number> | null} */
  function tallied(level) {
    const { store, meta, frame, labels, slides } = raylatent.now;
    const key = `${level}/${raylatent.now.filterVersion}`;
    if (raylatent.now.tally?.key !== key) raylatent.now.tally = { key, seen: new Set(), counts: new Map() };
    const { seen, counts } = raylatent.now.tally;
    const { numbers, n } = pointsIn(inUnits(raylatent.camera.boxOf(raylatent.now.view)));
    if (n > MOST_POINTS) return null;
    numbers.forEach((b) => store.block(`points/${b}`));
    const grid = geometry.gridOf(level);
    meta.points.blocks.forEach((/** @type {any} */ _, /** @type {number} */ b) => {
      const block = seen.has(b) ? null : store.blocks.get(`points/${b}`);
      if (!block) return;
      seen.add(b);
      for (let i = 0; i < block.n; i += 1) {
        if (labels && !labels.has(block.label[i])) continue;
        if (slides && !slides.has(block.slide[i])) continue;
        const { row, col } = geometry.cellOf(frame, block.x[i], block.y[i], level);
        counts.set(row * grid + col, (counts.get(row * grid + col) ?? 0) + 1);
      }
    });
    return counts;
  }
  /** How many tiles of each cell of a coarse level are of the slides in the filter, or null until that is here.
   * @param {number} level @returns {Map<number, number> | null} */
  function ofSlides(level) {
    const { store, slides, filterVersion: key } = raylatent.now;
    const block = store.block(`slides/${level}`);
    if (!block) return null;
    if (block.filtered?.key !== key) {
      const counts = new Map();
      for (let i = 0; i < block.n; i += 1) {
        if (!slides?.has(block.slide[i])) continue;
        counts.set(block.cell[i], (counts.get(block.cell[i]) ?? 0) + block.tiles[i]);
      }
      block.filtered = { key, counts };
    }
    return block.filtered.counts;
  }
  /** How many tiles the filters leave each cell; null: there is none. @param {number} level @param {Block} block */
  function left(level, block) {
    if (!filtered()) return null;
    const { labels, slides, meta, filterVersion: key } = raylatent.now;
    if (!slides) {
      if (block.left?.key !== key) {
        const counts = new Uint32Array(block.n);
        if (labels?.has(data.NO_U1)) {
          counts.set(block.tiles);
          for (let l = 0; block[`count_${l}`]; l += 1) {
            for (let i = 0; i < block.n; i += 1) counts[i] -= block[`count_${l}`][i];
          }
        }
        for (const label of labels ?? []) {
          const column = block[`count_${label}`];
          for (let i = 0; column && i < block.n; i += 1) counts[i] += column[i];
        }
        block.left = { key, counts };
      }
      return block.left.counts;
    }
    const coarse = level <= lastOfSlides() && (!labels || meta.points.kind !== "all");
    const counts = coarse ? ofSlides(level) : tallied(level);
    if (!counts) return null;
    const grid = geometry.gridOf(level);
    const full = `${key}/${coarse}/${coarse ? 0 : raylatent.now.tally.seen.size}`;
    if (block.left?.key === full) return block.left.counts;
    const left = Uint32Array.from(block.row, (/** @type {number} */ row, i) =>
      counts.get(row * grid + block.col[i]) ?? 0);
    block.left = { key: full, counts: left };
    return left;
  }
  /** A block's colors now; 0 is hidden. @param {Block} block @param {number} level @param {boolean} cells */
  function colors(block, level, cells) {
    const { meta, by, regions, regionsVersion, filterVersion, labels, slides, only } = raylatent.now;
    const key = `${by}/${level}/${regionsVersion}/${cells ? "" : filterVersion}/${Boolean(only)}`;
    if (block.painted?.key !== key) {
      const painted = color.paint(meta, by, meta.levels[level], regions, block, cells);
      for (let i = 0; !cells && filtered() && i < block.n; i += 1) {
        const hidden = (labels && !labels.has(block.label[i])) || (slides && !slides.has(block.slide[i]));
        if (hidden) painted[i] = 0;
      }
      const { keyOf } = raylatent.selection;
      for (let i = 0; !cells && only && i < block.n; i += 1) {
        if (!only.has(keyOf(block.slide[i], block.tile[i]))) painted[i] = 0xffd8d8d8;
      }
      block.painted = { key, colors: painted };
    }
    return /** @type {Uint32Array} */ (block.painted.colors);
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
    MOST_POINTS, lastOfSlides, deepest, deepestPicture, inGroup, here, find, inUnits, pointsIn,
    sharesOf, filter, filtered, left, colors, hasPicture,
  };
})();

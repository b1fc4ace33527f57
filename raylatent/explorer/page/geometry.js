"use strict";
// Places on the map, cells of grids, and polygons: pure functions that need no page.
var raylatent = raylatent || {};
/**
 * @typedef {{x0: number, y0: number, side: number}} Frame the square that holds the map
 * @typedef {number[][]} Ring vertices [x, y] in map units; the last is joined to the first
 * @typedef {Float64Array} Edges x1, y1, x2, y2 of each edge
 */
/** @param {string} id @returns {any} */
raylatent.$ = (id) => document.getElementById(id);
raylatent.geometry = (() => {
  /** The bits of a number below 65,536 in the even places of another. @param {number} v */
  function spread(v) {
    v = (v | (v << 8)) & 0x00ff00ff;
    v = (v | (v << 4)) & 0x0f0f0f0f;
    v = (v | (v << 2)) & 0x33333333;
    v = (v | (v << 1)) & 0x55555555;
    return v >>> 0;
  }
  /** The Morton code of a cell: bits of the column in the even places. @param {number} row @param {number} col */
  const morton = (row, col) => spread(col) + 2 * spread(row);
  /** The cells a side of a level's grid. @param {number} level */
  const gridOf = (level) => 8 * 2 ** level;
  /** A place as a share, from the lower left. @type {(frame: Frame, x: number, y: number) => [number, number]} */
  const shareOf = (frame, x, y) => [(x - frame.x0) / frame.side, (y - frame.y0) / frame.side];
  /** The column or row of a share; the upper edge is in the last. @param {number} share @param {number} grid */
  const stepOf = (share, grid) => Math.min(grid - 1, Math.floor(share * grid));
  /** Row 0 is at the bottom. @param {Frame} frame @param {number} x @param {number} y @param {number} level */
  function cellOf(frame, x, y, level) {
    const [tx, ty] = shareOf(frame, x, y);
    const grid = gridOf(level);
    return { row: stepOf(ty, grid), col: stepOf(tx, grid) };
  }
  /** The first index of ascending values that is not below. @param {ArrayLike<number>} values @param {number} sought */
  function lowerBound(values, sought) {
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < sought) low = middle + 1;
      else high = middle;
    }
    return low;
  }
  /** Rings of rings, or of one ring. @param {unknown} given @returns {Ring[]} @throws {Error} if it is no polygon */
  function ringsOf(given) {
    const list = Array.isArray(given) ? given : [];
    const rings = /** @type {Ring[]} */ (typeof list[0]?.[0] === "number" ? [list] : list);
    const sound = rings.every((ring) => Array.isArray(ring) && ring.length > 2 &&
      ring.every((p) => Array.isArray(p) && p.length === 2 && p.every(Number.isFinite)));
    if (rings.length === 0 || !sound) {
      throw new Error("This is not a polygon: rings are lists of at least three places [x, y].");
    }
    return rings.map((ring) => ring.map((p) => [p[0], p[1]]));
  }
  /** From each vertex to the next, and from the last to the first. @param {Ring[]} rings @returns {Edges} */
  const edgesOf = (rings) => Float64Array.from(
    rings.flatMap((ring) => ring.flatMap((p, i) => [...p, ...ring[(i + 1) % ring.length]])));
  /** Whether a place is inside, even-odd over all rings, in float64 in this order: what `raylatent select` and the
   * server do. @param {Edges} edges @param {number} x @param {number} y */
  function inside(edges, x, y) {
    let odd = false;
    for (let i = 0; i < edges.length; i += 4) {
      const [y1, y2] = [edges[i + 1], edges[i + 3]];
      if (y1 > y === y2 > y) continue;
      const x1 = edges[i];
      if (x < ((edges[i + 2] - x1) * (y - y1)) / (y2 - y1) + x1) odd = !odd;
    }
    return odd;
  }
  /** [left, bottom, right, top], a little wider for rounding. @param {Ring[]} rings */
  function boxOf(rings) {
    const most = (/** @type {number} */ axis, /** @type {number} */ sign) =>
      sign * rings.flat().reduce((v, p) => Math.max(v, sign * p[axis]), -Infinity);
    const box = [most(0, -1), most(1, -1), most(0, 1), most(1, 1)];
    const pad = 1e-9 * Math.max(1, ...box.map(Math.abs));
    return [box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad];
  }
  /** The corners of a box. @param {number[]} box left, bottom, right, top @returns {Ring} */
  const ringOf = ([left, bottom, right, top]) => [[left, bottom], [right, bottom], [right, top], [left, top]];
  /** Whether two boxes share a place. @param {number[]} a @param {number[]} b */
  const meet = (a, b) => a[0] <= b[2] && b[0] <= a[2] && a[1] <= b[3] && b[1] <= a[3];
  return { morton, gridOf, shareOf, stepOf, cellOf, lowerBound, ringsOf, edgesOf, inside, boxOf, ringOf, meet };
})();

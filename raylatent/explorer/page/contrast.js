"use strict";
// Where two groups of tiles differ: shares of the tiles of patients, or of slides, in each cell, tested by
// exchanging groups of whole patients or slides, never of tiles. Pure functions.
/**
 * @typedef {{n: number, cell: ArrayLike<number>, slide: ArrayLike<number>, tiles: ArrayLike<number>,
 *   group: ArrayLike<number>}} Rows how many tiles of a slide and a group (0 or 1; others count not) a cell has
 * @typedef {{of: Int32Array, group: Int8Array, pairs: number[][], singles: number[], unit: number[],
 *   what: string}} Units an entry is one patient's, or slide's, tiles of one group: `of` has that of each row,
 *   `pairs` those of who has tiles of both groups
 * @typedef {{cell: number, difference: number, p: number, q: number, a: number, b: number, is: boolean}} Tested
 */
raylatent.contrast = (() => {
  const [Q, ORDERS] = [0.05, 9999];
  const LEAST = 3; // patients or slides of a group, and in a cell that is tested
  /** Numbers from 0 to 1, the same for each seed (a linear congruence). @param {number} seed */
  const random = (seed) => () => (seed = (1664525 * seed + 1013904223) % 2 ** 32) / 2 ** 32;
  /** Patients where that column is there, else slides. @param {any} meta @param {Rows} rows @returns {Units} */
  function unitsOf(meta, rows) {
    const { columns, patient: name } = meta.annotations;
    const patient = columns.find((/** @type {any} */ column) => column.name === name);
    const units = Array.from(meta.slides, (_, s) => patient?.values[s] ?? `slide ${s}`);
    const ids = new Map(Array.from(new Set(units), (unit, id) => [unit, id]));
    /** @type {Map<number, number>} */
    const entries = new Map();
    const of = new Int32Array(rows.n).fill(-1);
    for (let i = 0; i < rows.n; i += 1) {
      if (rows.group[i] > 1) continue;
      const key = 2 * (ids.get(units[rows.slide[i]]) ?? 0) + rows.group[i];
      if (!entries.has(key)) entries.set(key, entries.size);
      of[i] = entries.get(key) ?? -1;
    }
    const keys = [...entries.keys()];
    const both = keys.filter((key) => entries.has(key ^ 1));
    const at = (/** @type {number} */ key) => entries.get(key) ?? -1;
    return {
      of, group: Int8Array.from(keys, (key) => key & 1),
      pairs: both.filter((key) => !(key & 1)).map((key) => [at(key), at(key + 1)]),
      singles: keys.filter((key) => !entries.has(key ^ 1)).map(at), unit: keys.map((key) => key >> 1),
      what: patient ? "patients" : "slides",
    };
  }
  /** n over k, as far as it matters. @param {number} n @param {number} k */
  function choose(n, k) {
    let ways = 1;
    for (let i = 1; i <= Math.min(k, n - k); i += 1) ways = (ways * (n - i + 1)) / i;
    return Math.round(ways);
  }
  /** How many patients or slides each group has. @param {Units} units */
  const sizesOf = ({ group }) => [0, 1].map((g) => group.filter((one) => one === g).length);
  /** The smallest p that exchanging groups can give. @param {Units} units */
  function leastOf(units) {
    const [left, right] = sizesOf(units).map((n) => n - units.pairs.length);
    const exact = (left === right ? 2 : 1) / (choose(left + right, left) * 2 ** units.pairs.length);
    return Math.max(exact, 1 / (ORDERS + 1));
  }
  /** Why there are too few units to find anything, or "". @param {Units} units */
  function tooFew(units) {
    const [a, b] = sizesOf(units);
    if (Math.min(a, b) >= LEAST && leastOf(units) <= Q) return "";
    return `There are too few ${units.what} for a test: ${a} and ${b}` +
      `${units.pairs.length > 0 ? `, ${units.pairs.length} of them in both groups` : ""}. At least ${LEAST} in ` +
      "each group and 4 in one of them are needed, more where some are in both groups. " +
      "The colors show the difference in this data, and nothing is outlined.";
  }
  /** Drawn orders of the groups: who has tiles of both exchanges them or not. @param {Units} units */
  function ordersOf({ group, pairs, singles }) {
    const next = random(20260);
    return Array.from({ length: ORDERS }, () => {
      const order = group.slice();
      const swap = (/** @type {number} */ a, /** @type {number} */ b) =>
        ([order[a], order[b]] = [order[b], order[a]]);
      for (let i = singles.length - 1; i > 0; i -= 1) swap(singles[i], singles[Math.floor(next() * (i + 1))]);
      for (const [a, b] of pairs) if (next() < 0.5) swap(a, b);
      return order;
    });
  }
  /** Adjusted for the number of tests by Benjamini and Hochberg. @param {number[]} p */
  function adjusted(p) {
    const order = p.map((_, i) => i).sort((i, j) => p[j] - p[i]);
    const q = new Array(p.length);
    let least = 1;
    order.forEach((i, k) => {
      least = Math.min(least, (p[i] * p.length) / (p.length - k));
      q[i] = least;
    });
    return q;
  }
  /** By cell, in their order: of the tiles of each entry the share there. @param {Rows} rows @param {Units} units */
  function sharesOf(rows, units) {
    const totals = new Float64Array(units.group.length);
    for (let i = 0; i < rows.n; i += 1) if (units.of[i] >= 0) totals[units.of[i]] += rows.tiles[i];
    /** @type {Map<number, Map<number, number>>} */
    const cells = new Map();
    for (let i = 0; i < rows.n; i += 1) {
      const entry = units.of[i];
      if (entry < 0) continue;
      const shares = cells.get(rows.cell[i]) ?? new Map();
      shares.set(entry, (shares.get(entry) ?? 0) + rows.tiles[i] / totals[entry]);
      cells.set(rows.cell[i], shares);
    }
    return [...cells].sort((a, b) => a[0] - b[0]);
  }
  /** A level's cells, in order, with the difference of the groups' mean shares, the first minus the second; p and q are
   * 1 where there are too few units, or a cell has too few of them to tell. @param {Rows} rows
   * @param {Units} units @param {(share: number) => Promise<void>} breath lets the page draw now and then */
  async function tested(rows, units, breath) {
    const sizes = sizesOf(units);
    const orders = tooFew(units) ? [] : ordersOf(units);
    const found = [];
    const cells = sharesOf(rows, units);
    let last = performance.now();
    for (const [cell, shares] of cells) {
      const [who, share] = [[...shares.keys()], [...shares.values()]];
      const means = (/** @type {Int8Array} */ order) => {
        const sums = [0, 0];
        for (let i = 0; i < who.length; i += 1) sums[order[who[i]]] += share[i];
        return [sums[0] / (sizes[0] || 1), sums[1] / (sizes[1] || 1)];
      };
      const [a, b] = means(units.group);
      const least = Math.abs(a - b) * (1 - 1e-9);
      const asLarge = (/** @type {Int8Array} */ order) => {
        const [x, y] = means(order);
        return Math.abs(x - y) >= least;
      };
      // Cells of one or two patients or slides cannot tell anything: they are shown, and not tested.
      const is = orders.length > 0 && new Set(who.map((entry) => units.unit[entry])).size >= LEAST;
      const p = is ? (orders.filter(asLarge).length + 1) / (orders.length + 1) : 1;
      found.push({ cell, difference: a - b, p, q: 1, a, b, is });
      if (performance.now() - last > 50) {
        await breath(found.length / cells.length);
        last = performance.now();
      }
    }
    const enough = found.filter((one) => one.is);
    adjusted(enough.map((one) => one.p)).forEach((q, i) => (enough[i].q = q));
    return found;
  }
  return { Q, random, unitsOf, sizesOf, choose, leastOf, tooFew, ordersOf, adjusted, sharesOf, tested };
})();

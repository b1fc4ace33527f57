"use strict";
// Where two groups of patients, or of slides, differ: shares of their tiles in each cell,
// tested by exchanging whole patients or slides, never tiles. Pure functions.
var raylatent = raylatent || {};

/**
 * @typedef {{names: string[], of: Int32Array, group: Int8Array, mixed: number,
 *   what: string}} Units `of` has the unit of each slide, -1 for those left out;
 *   `group` is 0 or 1
 * @typedef {{cell: number, difference: number, p: number, q: number, units: number,
 *   a: number, b: number}} Tested
 */

raylatent.contrast = (() => {
  const Q = 0.05;
  const ORDERS = 9999;
  const LEAST_A_GROUP = 3;
  /** Numbers from 0 to 1, the same for each seed (mulberry32). @param {number} seed */
  function random(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }
  /** Slides grouped into patients where that column is there, and the patients' group. A patient whose
   * slides are in both groups is left out, and counted. @param {any} meta @param {any} column a category
   * of slides @param {number} a @param {number} b indices into its names @returns {Units} */
  function unitsOf(meta, column, a, b) {
    const patient = meta.annotations.columns.find(
      (/** @type {any} */ c) => c.name === meta.annotations.patient,
    );
    const of = new Int32Array(meta.slides.length).fill(-1);
    /** @type {Map<string, {name: string, slides: number[], groups: Set<number>}>} */
    const found = new Map();
    column.values.forEach((/** @type {number | null} */ value, /** @type {number} */ s) => {
      if (value !== a && value !== b) return;
      const whose = patient?.values[s] ?? null;
      const key = whose === null ? `slide ${s}` : `patient ${whose}`;
      const name = whose === null ? meta.slides[s].name : String(patient.names?.[whose] ?? whose);
      const unit = found.get(key) ?? { name, slides: [], groups: new Set() };
      unit.slides.push(s);
      unit.groups.add(value === a ? 0 : 1);
      found.set(key, unit);
    });
    const kept = [...found.values()].filter((unit) => unit.groups.size === 1);
    kept.forEach((unit, u) => unit.slides.forEach((s) => (of[s] = u)));
    return {
      names: kept.map((unit) => unit.name),
      of,
      group: Int8Array.from(kept, (unit) => [...unit.groups][0]),
      mixed: found.size - kept.length,
      what: patient ? "patients" : "slides",
    };
  }
  /** n over k, as far as it matters. @param {number} n @param {number} k */
  function choose(n, k) {
    let ways = 1;
    for (let i = 1; i <= Math.min(k, n - k); i += 1) ways = (ways * (n - i + 1)) / i;
    return Math.round(ways);
  }
  /** Why there are too few units to find anything, or "". @param {Units} units */
  function tooFew(units) {
    const b = units.group.reduce((sum, g) => sum + g, 0);
    const a = units.group.length - b;
    const least = (a === b ? 2 : 1) / choose(a + b, a);
    if (Math.min(a, b) >= LEAST_A_GROUP && least <= Q) return "";
    return (
      `There are too few ${units.what} for a test: ${a} and ${b}. ` +
      `At least ${LEAST_A_GROUP} in each group, and 4 in one of them, are needed. ` +
      "The colors show the difference in this data, and nothing is outlined."
    );
  }
  /** Drawn orders of the groups to compare with. @param {Units} units @returns {Int8Array[]} */
  function ordersOf(units) {
    const next = random(20260);
    return Array.from({ length: ORDERS }, () => {
      const order = units.group.slice();
      for (let i = order.length - 1; i > 0; i -= 1) {
        const j = Math.floor(next() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
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
  /** The shares of each cell's units, by cell: a unit's tiles in the cell of all of its tiles.
   * @param {any} block columns cell, slide and tiles, of one level @param {Units} units
   * @returns {Map<number, Map<number, number>>} */
  function sharesOf(block, units) {
    const totals = new Float64Array(units.group.length);
    for (let i = 0; i < block.n; i += 1) {
      const unit = units.of[block.slide[i]];
      if (unit >= 0) totals[unit] += block.tiles[i];
    }
    const cells = new Map();
    for (let i = 0; i < block.n; i += 1) {
      const unit = units.of[block.slide[i]];
      if (unit < 0) continue;
      const shares = cells.get(block.cell[i]) ?? new Map();
      shares.set(unit, (shares.get(unit) ?? 0) + block.tiles[i] / totals[unit]);
      cells.set(block.cell[i], shares);
    }
    return cells;
  }
  /** The cells of a level with the difference of the groups' mean shares, the first minus the second; p
   * and q are 1 where there are too few units, or a cell has too few of them to tell. @param {any} block
   * @param {Units} units @param {() => Promise<void>} breath lets the page draw now and then
   * @returns {Promise<Tested[]>} in order of cells */
  async function tested(block, units, breath) {
    const sizes = [0, 0];
    units.group.forEach((g) => (sizes[g] += 1));
    const orders = tooFew(units) ? [] : ordersOf(units);
    /** @type {Tested[]} */
    const found = [];
    const cells = [...sharesOf(block, units)].sort((a, b) => a[0] - b[0]);
    for (const [cell, shares] of cells) {
      const who = [...shares.keys()];
      const share = [...shares.values()];
      const means = (/** @type {Int8Array} */ order) => {
        const sums = [0, 0];
        for (let i = 0; i < who.length; i += 1) sums[order[who[i]]] += share[i];
        return [sums[0] / (sizes[0] || 1), sums[1] / (sizes[1] || 1)];
      };
      const [a, b] = means(units.group);
      let p = 1;
      if (orders.length > 0 && who.length >= LEAST_A_GROUP) {
        const seen = Math.abs(a - b) * (1 - 1e-9);
        let as = 0;
        for (const order of orders) {
          const [one, other] = means(order);
          if (Math.abs(one - other) >= seen) as += 1;
        }
        p = (as + 1) / (orders.length + 1);
      }
      found.push({ cell, difference: a - b, p, q: 1, units: who.length, a, b });
      if (found.length % 64 === 0) await breath();
    }
    // Cells of one or two units cannot tell anything: they are shown, and not tested.
    const enough = found.filter((one) => one.units >= LEAST_A_GROUP);
    const q = adjusted(enough.map((one) => one.p));
    if (orders.length > 0) enough.forEach((one, i) => (one.q = q[i]));
    return found;
  }

  return { Q, random, unitsOf, choose, tooFew, ordersOf, adjusted, sharesOf, tested };
})();

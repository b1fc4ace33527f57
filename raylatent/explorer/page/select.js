"use strict";
// Selections: which tiles lie in polygons, what they are, and their names.
/** @typedef {{n: number | null, exact: boolean, slides: number | null, rows: [string, number][] | null}} Selected
 * rows are [slide, tile index] in their order, null if a server does not list so many */
raylatent.selection = (() => {
  const { cells, color, data, geometry } = raylatent;
  const MOST_MEMBERS = 5_000_000;
  /** @type {Record<string, any>} */
  const COLUMNS = { slide: Uint32Array, tile: Uint32Array, loc_x: Int32Array, loc_y: Int32Array,
    x: Float32Array, y: Float32Array, label: Uint8Array, novelty: Float32Array, pred: Uint16Array };
  /** The points that a test keeps, of blocks that a box in map units meets, by slide and tile. @param {number[]} box
   * @param {(block: Block, i: number) => boolean} keeps @throws {Error} if they are more than a page can hold */
  async function membersOf(box, keeps) {
    const { store } = raylatent.now;
    const parts = [];
    let n = 0;
    const { numbers } = cells.pointsIn(box);
    for (const [at, number] of numbers.entries()) {
      // The next ones come while this one is looked at; what fails is told in its turn.
      for (const next of numbers.slice(at + 1, at + 4)) store.block(`points/${next}`);
      const block = await store.load(`points/${number}`);
      /** @type {number[]} */
      const found = [];
      for (let i = 0; i < block.n; i += 1) if (keeps(block, i)) found.push(i);
      n += found.length;
      if (n > MOST_MEMBERS) {
        throw new Error("These are too many tiles for a page: save the polygon file, and use `raylatent select`.");
      }
      parts.push(Object.fromEntries(Object.entries(COLUMNS).map(([name, kind]) =>
        [name, kind.from(found, (/** @type {number} */ i) => block[name][i])])));
    }
    return sorted(parts, n);
  }
  /** One number for a tile, if slides are fewer than 2^21. @param {number} slide @param {number} tile */
  const keyOf = (slide, tile) => slide * 2 ** 32 + tile;
  /** Parts as one, in order of slide and tile. @param {Record<string, any>[]} parts @param {number} n */
  function sorted(parts, n) {
    const joined = (/** @type {string} */ name) => {
      const whole = new COLUMNS[name](n);
      let at = 0;
      for (const part of parts) {
        whole.set(part[name], at);
        at += part[name].length;
      }
      return whole;
    };
    const tile = joined("tile");
    const keys = new Float64Array(joined("slide")).map((slide, i) => keyOf(slide, tile[i]));
    const order = new Uint32Array(n).map((_, i) => i).sort((a, b) => keys[a] - keys[b]);
    const columns = Object.keys(COLUMNS).map((name) => {
      const whole = joined(name);
      return [name, whole.map((/** @type {any} */ _, /** @type {number} */ i) => whole[order[i]])];
    });
    return /** @type {Members} */ ({ n, ...Object.fromEntries(columns) });
  }
  /** The points of a cell: of a sample those that the server tells. @param {CellId} cell @returns {Promise<Members>} */
  async function inCell({ level, row, col }) {
    if (raylatent.now.meta.points.kind !== "all" && raylatent.now.served) {
      const { members } = await fromServer({ cell: [level, row, col] });
      if (members) return members;
      throw new Error("These are too many tiles to list: use `raylatent select`.");
    }
    const grid = geometry.gridOf(level);
    const box = cells.inUnits([col - 0.01, row - 0.01, col + 1.01, row + 1.01].map((v) => v / grid));
    return membersOf(box, (block, i) => {
      const at = geometry.cellOf(raylatent.now.frame, block.x[i], block.y[i], level);
      return at.row === row && at.col === col;
    });
  }
  /** Asks the server for the members: a row is slide, tile index, and its place if it is known; null are too many.
   * @param {Record<string, any>} body @returns {Promise<{n: number, slides: number, members: Members | null,
   * rows: [string, number, number | null, number | null][] | null}>} */
  async function fromServer(body) {
    const { meta, store } = raylatent.now;
    const text = JSON.stringify({ map: meta.map.digest, ...body });
    const about = { method: "POST", headers: { "Content-Type": "application/json" }, body: text };
    const response = await fetch(`${store.base}members`, about);
    if (!response.ok) throw new Error(`The server does not tell the members: ${await response.text()}`);
    const told = await response.json();
    const ids = new Map(Array.from(meta.slides, (/** @type {any} */ slide, id) => [slide.name, id]));
    const of = (/** @type {any} */ kind, /** @type {(row: any[]) => number} */ value) => kind.from(told.rows, value);
    const members = told.rows && { n: told.rows.length, slide: of(Uint32Array, ([name]) => ids.get(name) ?? 0),
      tile: of(Uint32Array, (row) => row[1]), loc_x: of(Int32Array, (row) => row[2] ?? data.NO_I4),
      loc_y: of(Int32Array, (row) => row[3] ?? data.NO_I4), x: of(Float32Array, () => NaN),
      y: of(Float32Array, () => NaN) };
    return { ...told, members };
  }
  /** What tests and the console use. @param {unknown} given rings, or one, in map units @returns {Promise<Selected>} */
  async function select(given) {
    const { meta } = raylatent.now;
    const found = await chosen(geometry.ringsOf(given));
    if (!("slide" in found)) return { exact: true, ...found };
    if (meta.points.kind !== "all") return { n: null, exact: false, slides: null, rows: [] };
    /** @type {[string, number][]} */
    const rows = Array.from(found.slide, (slide, i) => [meta.slides[slide].name, found.tile[i]]);
    return { n: found.n, exact: true, slides: slidesOf(found), rows };
  }
  /** Selects what is in rings, and tells it: the members, or what the server says of them. @param {Ring[]} rings */
  async function chosen(rings) {
    const { meta, served } = raylatent.now;
    Object.assign(raylatent.now, { rings, members: null, only: null });
    const said = (/** @type {Parameters<typeof raylatent.controls.selected>[0]} */ told) => {
      if (raylatent.now.rings === rings) raylatent.controls.selected(told);
    };
    said({ n: null, why: "Counting the tiles." });
    raylatent.page.changed();
    try {
      if (meta.points.kind !== "all" && served) {
        const { n, slides, rows, members } = await fromServer({ rings });
        if (raylatent.now.rings === rings) raylatent.now.members = members;
        said({ n, slides });
        /** @type {[string, number][] | undefined} */
        const told = rows?.map(([slide, tile]) => [slide, tile]);
        return { n, slides, rows: told ?? null };
      }
      const edges = geometry.edgesOf(rings);
      const members = await membersOf(geometry.boxOf(rings), ({ x, y }, i) => geometry.inside(edges, x[i], y[i]));
      if (raylatent.now.rings === rings) raylatent.now.members = members;
      said({ n: members.n, slides: slidesOf(members), members });
      return members;
    } catch (error) {
      said({ n: null, why: /** @type {Error} */ (error).message });
      throw error;
    }
  }
  const slidesOf = (/** @type {Members} */ members) => new Set(members.slide).size;
  /** Adds rings to the selection, or begins another: where rings lie over one another the area goes out again, so
   * that a ring inside another cuts a hole. @param {Ring[]} rings @param {boolean} added */
  const choose = (rings, added) => chosen(added ? [...raylatent.now.rings, ...rings] : rings);
  /** Selects what is in view. */
  const inView = () => raylatent.page.guard(
    choose([geometry.ringOf(cells.inUnits(raylatent.camera.boxOf(raylatent.now.view)))], false));
  /** Takes a selection over from another map of the run, by its tiles: they keep their color, and the other points
   * turn grey. @param {Members} members @param {{name: string}[]} slides of that map: their numbers differ */
  async function carry(members, slides) {
    const { now } = raylatent;
    const { store } = now;
    const ids = new Map(Array.from(now.meta.slides, (/** @type {any} */ one, id) => [one.name, id]));
    const keyHere = (/** @type {number} */ slide, /** @type {number} */ i) =>
      keyOf(ids.get(slides[slide].name) ?? -1, members.tile[i]);
    const keys = new Set(Array.from(members.slide, keyHere));
    const found = await membersOf([-Infinity, -Infinity, Infinity, Infinity], (block, i) =>
      keys.has(keyOf(block.slide[i], block.tile[i])));
    if (now.store !== store) return;
    Object.assign(now, { members: found, only: keys, showPoints: true });
    raylatent.controls.selected({ n: found.n, slides: slidesOf(found), members: found });
    raylatent.page.changed();
  }
  function clear() {
    Object.assign(raylatent.now, { rings: [], only: null, members: null });
    raylatent.controls.selected(null);
    raylatent.page.changed();
  }
  /** Names for selections; one with the same name is replaced. @param {{name: string, rings: Ring[]}[]} given */
  function name(given) {
    const { now } = raylatent;
    for (const { name: title, rings } of given) {
      now.regions = now.regions.filter((/** @type {any} */ one) => one.name !== title);
      now.regions.push({ name: title, rings, edges: geometry.edgesOf(rings), color: "" });
    }
    now.regions.forEach((/** @type {any} */ one, /** @type {number} */ i) => (one.color = color.ofCategory(i)));
    now.regionsVersion += 1;
    raylatent.compare.lists();
    raylatent.controls.regions();
    raylatent.page.changed();
  }
  return { MOST_MEMBERS, membersOf, inCell, fromServer, select, choose, inView, carry, keyOf, clear, name };
})();
raylatent.select = raylatent.selection.select;

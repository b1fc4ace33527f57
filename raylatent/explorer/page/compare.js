"use strict";
// The form for a contrast of values of an annotation, labels of tiles, or named selections, and what it found.
raylatent.compare = (() => {
  const { $, cells, contrast, geometry, panel } = raylatent;
  const { cellLink, el, fill, tableOf, whole } = panel;
  const REST = -1;
  let turn = 0; // of the comparison that counts
  /** What can be compared: [key, text, names]. @returns {[string, string, string[]][]} */
  function sources() {
    const { meta, regions } = raylatent.now;
    /** @type {[string, string, string[]][]} */
    const found = meta.annotations.columns.map((/** @type {any} */ c, /** @type {number} */ i) =>
      [`annotation:${i}`, c.name, c.kind === "category" && c.name !== meta.annotations.patient ? c.names : []]);
    if (meta.labels.of === "tile") found.push(["label", `${meta.labels.column} (of tiles)`, meta.labels.names]);
    found.push(["region", "named selections", regions.map((/** @type {any} */ one) => one.name)]);
    return found.filter(([key, , names]) => names.length > (key === "region" ? 0 : 1));
  }
  /** How many tiles of each slide and group each cell has. @param {string} key @param {number} level @param {(value:
   * number | null) => number} groupOf @returns {Promise<Rows>} */
  async function rowsOf(key, level, groupOf) {
    const { store, meta, frame, regions } = raylatent.now;
    const [kind, number] = key.split(":");
    if (kind === "annotation") {
      const block = await store.load(`slides/${level}`);
      const groups = meta.annotations.columns[Number(number)].values.map(groupOf);
      return { n: block.n, cell: block.cell, slide: block.slide, tiles: block.tiles,
        group: Uint8Array.from(block.slide, (/** @type {number} */ s) => groups[s]) };
    }
    const [grid, across] = [geometry.gridOf(level), 2 * meta.slides.length];
    const counts = new Map();
    for (let b = 0; b < meta.points.blocks.length; b += 1) {
      const points = await store.load(`points/${b}`);
      for (let i = 0; i < points.n; i += 1) {
        const [x, y] = [points.x[i], points.y[i]];
        const group = groupOf(kind === "label" ? (points.label[i] === raylatent.data.NO_U1 ? null : points.label[i])
          : regions.findIndex((/** @type {any} */ one) => geometry.inside(one.edges, x, y)));
        if (group > 1) continue;
        const { row, col } = geometry.cellOf(frame, x, y, level);
        const at = (row * grid + col) * across + 2 * points.slide[i] + group;
        counts.set(at, (counts.get(at) ?? 0) + 1);
      }
    }
    const keys = [...counts.keys()];
    return { n: keys.length, cell: keys.map((at) => Math.floor(at / across)), tiles: [...counts.values()],
      slide: keys.map((at) => (at % across) >> 1), group: keys.map((at) => at & 1) };
  }
  /** Compares two groups on one grid. */
  async function compare() {
    const { now, page } = raylatent;
    const [key, a, b, level] = ["column", "a", "b", "level"].map((id) => $(`contrast-${id}`).value);
    if (a === b) throw new Error("Choose two different groups.");
    const groupOf = (/** @type {number | null} */ v) => String(v) === a ? 0 : v === null ? 2
      : String(v) === b || Number(b) === REST ? 1 : 2;
    const names = ["a", "b"].map((id) => $(`contrast-${id}`).selectedOptions[0].textContent);
    page.say("Comparing.");
    const [mine, { store }] = [(turn += 1), now];
    const current = () => {
      if (mine !== turn || now.store !== store) throw new Error("That comparison was ended.");
    };
    const rows = await rowsOf(key, Number(level), groupOf);
    const units = contrast.unitsOf(now.meta, rows);
    current();
    const found = await contrast.tested(rows, units, (share) => {
      current();
      page.say(`Comparing: ${Math.round(100 * share)} % of the cells.`);
      return new Promise((done) => setTimeout(done));
    });
    current();
    const most = found.reduce((m, one) => Math.max(m, Math.abs(one.difference)), 1e-9);
    now.contrast = { level: Number(level), cells: found, most, names };
    const few = contrast.tooFew(units);
    const [sizes, both] = [contrast.sizesOf(units), units.pairs.length];
    const n = found.filter((one) => one.q < contrast.Q).length;
    const told = few || `${whole(n)} of ${whole(found.length)} cells differ (q < ${contrast.Q}), tested by ` +
      `${units.what}: ${sizes[0]} ${names[0]}, ${sizes[1]} ${names[1]}${both > 0 ? `, ${both} in both` : ""}.` +
      (n === 0 && contrast.leastOf(units) * found.filter((one) => one.is).length > contrast.Q
        ? ` With so few ${units.what} one cell alone cannot reach that here: a coarser grid tests fewer.` : "") +
      (key.startsWith("annotation") || now.meta.points.kind === "all" ? "" : " The points are a sample.");
    const top = [...found].sort((x, y) => x.q - y.q || Math.abs(y.difference) - Math.abs(x.difference));
    const grid = geometry.gridOf(Number(level));
    const percent = (/** @type {number} */ v) => (100 * v).toFixed(2);
    fill($("contrast-told"), el("p", {}, told),
      tableOf(["Cell", `${names[0]} %`, `${names[1]} %`, "q"], top.slice(0, 20).map((one) => {
        const id = { level: Number(level), row: Math.floor(one.cell / grid), col: one.cell % grid };
        return [cellLink(id, page.go), percent(one.a), percent(one.b), few ? "-" : one.q.toPrecision(2)];
      })));
    page.say(few ? "There are too few for a test." : "Compared: cells that differ are outlined in black.");
    page.changed();
  }
  /** Ends a comparison, also one that is not done. */
  function end() {
    turn += 1;
    raylatent.now.contrast = null;
    $("contrast-told").replaceChildren();
    raylatent.page.say("The comparison was ended.");
    raylatent.page.changed();
  }
  /** Where there are two groups to compare, the lists of them. */
  function lists() {
    const { meta } = raylatent.now;
    const found = sources();
    $("contrast-form").hidden = found.length === 0;
    $("contrast-none").hidden = found.length > 0;
    if (found.length === 0) return;
    const { options } = raylatent.controls;
    options("contrast-column", found.map(([key, text]) => [key, text]));
    $("contrast-column").value = (found.find(([, text]) => text.startsWith(meta.labels.column)) ?? found[0])[0];
    const groups = () => {
      const names = found.find(([key]) => key === $("contrast-column").value)?.[2] ?? [];
      const list = names.map((name, i) => [i, name]);
      options("contrast-a", list);
      options("contrast-b", [...list.slice(1), [REST, "all others"], ...list.slice(0, 1)]);
    };
    groups();
    $("contrast-column").onchange = groups;
    const last = cells.lastOfSlides();
    options("contrast-level", Array.from({ length: last + 1 }, (_, l) => [l, `${8 * 2 ** l} x ${8 * 2 ** l}`]));
    $("contrast-level").value = String(Math.min(1, last));
  }
  return { compare, end, lists };
})();

"use strict";
// The cells whose tiles are nearest to one in activation space: ringed on the map, and listed.
raylatent.similar = (() => {
  const { cells, data, geometry, panel } = raylatent;
  const { counted, el, link } = panel;
  /** What finds the cells whose tiles are nearest in activation space. @param {Tile} tile */
  return (tile) => {
    const { now, page } = raylatent;
    const { meta, frame, store } = now;
    const level = meta.similar ?? null;
    if (level === null) return null;
    const grid = geometry.gridOf(level);
    const list = el("ol", { class: "similar" });
    const find = async () => {
      const block = await store.load(`similar/${level}`);
      const { row, col } = geometry.cellOf(frame, tile.x, tile.y, level);
      const at = geometry.lowerBound(block.cell, row * grid + col);
      if (block.cell[at] !== row * grid + col) throw new Error("Of this cell nothing similar is known.");
      const ids = Array.from({ length: 12 }, (_, k) => block[`s${k}`][at]).filter((id) => id !== data.NO_U4);
      now.similar = ids.map((id) => ({ level, row: Math.floor(id / grid), col: id % grid }));
      const lines = now.similar.map(async (/** @type {CellId} */ id) => {
        const found = await cells.find(id);
        const name = found ? `${meta.slides[found.block.slide[found.i]].name}, tile ${found.block.tile[found.i]}` : "";
        return el("li", {}, link(name, () => page.go(id), { "data-row": id.row, "data-col": id.col }));
      });
      list.replaceChildren(...(await Promise.all(lines)));
      page.say(`${counted(ids.length, "similar cell")}: ringed on the map, the most similar first.`);
      page.changed();
    };
    return el("div", {}, el("h3", {}, "Similar cells"),
      el("button", { type: "button", id: "similar", onclick: () => page.guard(find()) }, "Find similar cells"), list);
  };
})();

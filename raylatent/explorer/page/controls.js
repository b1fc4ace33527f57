"use strict";
// The controls beside the map: legend, filters, the selection, contrast, table, about.
raylatent.controls = (() => {
  const { camera, cells, color, draw, geometry, panel, save, selection } = raylatent;
  const { el, link, tableOf, whole, short } = panel;
  const LISTED = 24;
  const IN_TABLE = 50;
  const $ = (/** @type {string} */ id) => raylatent.page.$(id);
  /** @returns {string[]} */
  const slideNames = () => raylatent.now.meta.slides.map((/** @type {any} */ slide) => slide.name);
  /** Puts choices into a list. @param {string} id @param {[string | number, string][]} list */
  const fill = (id, list) => $(id).replaceChildren(...list.map(([value, text]) => el("option", { value }, text)));
  /** @param {string} hex */
  function swatch(hex) {
    const made = el("span", { class: "swatch", "aria-hidden": "true" });
    made.style.background = hex;
    return made;
  }
  /** @param {string} title @param {Record<string, any>} scale @param {string[]} stops */
  function scaleOf(title, scale, stops) {
    const label = `${title}: from ${short(scale.low)} to ${short(scale.high)}`;
    const bar = el("div", { class: "scale", role: "img", "aria-label": label });
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const ends = [scale.low, ...(scale.whole ? [] : [(scale.low + scale.high) / 2]), scale.high];
    return el("div", {}, bar, el("div", { class: "ends" }, ...ends.map((v) => el("span", {}, short(v)))));
  }

  function legend() {
    const { by, meta, regions, contrast: compared } = raylatent.now;
    if (compared) {
      const scale = { low: -100 * compared.most, high: 100 * compared.most };
      const title = `Share of tiles in ${compared.names[0]} minus ${compared.names[1]}, %`;
      $("legend").replaceChildren(el("h3", {}, title), scaleOf(title, scale, color.FROM_B_TO_A),
        el("p", { class: "note" }, "Outlined: false discovery rate (q) below 0.05."));
      return;
    }
    const level = draw.cellLevel();
    const { title, note, entries, scale } = color.legendOf(meta, by, meta.levels[level], regions);
    const list = entries.slice(0, LISTED).map((one) =>
      el("li", {}, swatch(one.color), one.name + (one.count === null ? "" : `: ${whole(one.count)}`)));
    if (entries.length > LISTED) list.push(el("li", {}, `and ${entries.length - LISTED} more`));
    $("legend").replaceChildren(
      ...(title ? [el("h3", {}, title)] : []),...(scale ? [scaleOf(title, scale, color.VIRIDIS)] : []),
      ...(list.length > 0 ? [el("ul", { class: "list" }, ...list)] : []),
      ...(note ? [el("p", { class: "note" }, note)] : []));
  }
  /** Boxes to tick. @param {string} id @param {"labels" | "slides"} which @param {[number, string][]} list */
  function ticks(id, which, list) {
    const { now } = raylatent;
    const all = which === "labels" ? list.map(([value]) => value) : [...now.meta.slides.keys()];
    $(id).replaceChildren(...list.map(([value, name]) => {
      const input = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox" }));
      input.checked = !now[which] || now[which].has(value);
      input.addEventListener("change", () => {
        const kept = now[which] ?? new Set(all);
        if (input.checked) kept.add(value);
        else kept.delete(value);
        const left = kept.size === all.length ? null : new Set(kept);
        cells.filter(which === "labels" ? left : now.labels, which === "slides" ? left : now.slides);
      });
      return el("label", {}, input, name);
    }));
  }

  function filters() {
    const sought = /** @type {HTMLInputElement} */ ($("find-slide")).value.toLowerCase();
    /** @param {string[]} names @returns {[number, string][]} */
    const numbered = (names) => names.map((name, i) => [i, name]);
    const { labels, n } = raylatent.now.meta;
    const some = labels.counts.reduce((/** @type {number} */ sum, /** @type {number} */ count) => sum + count, 0) < n;
    /** @type {[number, string][]} */
    const none = some && labels.names.length > 0 ? [[raylatent.data.NO_U1, "(no label)"]] : [];
    ticks("filter-labels", "labels", [...numbered(labels.names), ...none]);
    const found = numbered(slideNames()).filter(([, name]) => name.toLowerCase().includes(sought));
    ticks("filter-slides", "slides", found.slice(0, 200));
    if (found.length > 200) $("filter-slides").append(el("p", { class: "note" }, `The first 200 of ${found.length}: find others.`));
    if (!sought || found.length === 0) return;
    $("filter-slides").prepend(link(`Only these ${found.length}`, () => {
      cells.filter(raylatent.now.labels, new Set(found.map(([i]) => i)));
      filters();
    }));
  }
  /** Tells what is selected. @param {{n: number | null, slides: number | null, members: Members | null, why?: string}
   * | null} told n is null while it is not known, or cannot be, and why says that */
  function selected(told) {
    const { meta, rings } = raylatent.now;
    $("save").hidden = rings.length === 0 && !told;
    $("save-polygon").disabled = $("save-name").disabled = rings.length === 0; // chosen on another map, by its tiles
    if (!told || told.n === null) {
      $("selected").replaceChildren(told?.why ?? "Nothing is selected.");
      $("selected-bars").replaceChildren();
      return;
    }
    const sample = meta.points.kind !== "all" && told.members;
    const times = sample ? meta.n / Math.max(1, meta.points.n) : 1;
    const about = sample ? `About ${whole(Math.round(told.n * times))} tiles ` +
        "(this folder holds a sample of the points; the polygon file and `raylatent select` " +
        "give all)" : panel.counted(told.n, "tile");
    const aside = cells.filtered() ? " A filter does not narrow a selection." : "";
    const text = `${about} of ${sample ? "at least " : ""}${panel.counted(told.slides ?? 0, "slide")}.${aside}`;
    $("selected").replaceChildren(el("p", { id: "selected-n", "data-n": told.n }, text));
    raylatent.page.say(`Selected: ${text}`);
    /** @param {string} title @param {Iterable<number>} column @param {string[]} names @param {string[]} colors */
    const bars = (title, column, names, colors) => {
      const counts = new Map();
      for (const v of column) counts.set(v, (counts.get(v) ?? 0) + 1);
      for (const [v, n] of counts) counts.set(v, Math.round(n * times));
      const list = panel.countsOf(counts, names, colors, (told.n ?? 1) * times);
      return list.childElementCount > 0 ? [el("h3", {}, sample ? `${title}, about` : title), list] : [];
    };
    $("selected-bars").replaceChildren(...(told.members ? [
      ...bars(`Label (${meta.labels.column})`, told.members.label, meta.labels.names, meta.labels.colors),
      ...bars("Slide", told.members.slide, slideNames(), meta.colors_of_slides)] : []));
  }

  function regions() {
    const { regions: named, meta } = raylatent.now;
    const list = named.map((/** @type {any} */ one) => save.polygonOf(meta, one.rings, one.name));
    const text = () => save.download("regions.json", [JSON.stringify(list)], "application/json");
    const lines = named.map((/** @type {any} */ one) => el("li", {}, swatch(one.color),
      link(one.name, () => raylatent.page.guard(selection.choose(one.rings, false)))));
    const button = el("button", { type: "button", id: "save-regions", onclick: text }, "Save regions.json");
    const shown = [el("ul", { class: "list" }, ...lines), button];
    $("regions").replaceChildren(...(lines.length > 0 ? shown : []));
  }
  /** Saves the selection. @param {"csv" | "geojson" | "roi"} how */
  async function saved(how) {
    const { meta, members } = raylatent.now;
    if (meta.points.kind !== "all" || !members) {
      throw new Error("The members are not all here: save the polygon file, and use `raylatent select`.");
    }
    const name = /** @type {HTMLInputElement} */ ($("name")).value;
    if (how === "csv") {
      save.download("selection.csv", save.csvOf(meta, members, name), "text/csv");
      return;
    }
    const files = how === "geojson" ? await save.geojsonOf(meta, members, name) : save.roiOf(meta, members, name);
    const ids = save.bySlide(members).map(([id]) => meta.slides[id]);
    const without = ids.filter((slide) => !slide.window_px).map((slide) => slide.name);
    if (without.length > 0) {
      raylatent.page.say(`The size of tiles is not known for ${without.join(", ")}: ` +
        (how === "geojson" ? "points are written for them." : "they are left out.") +
        " `raylatent select --slides DIR` knows it.");
    }
    for (const file of files) {
      save.download(file.name, file.pieces, how === "roi" ? "text/csv" : "application/geo+json");
      await new Promise((done) => setTimeout(done, 200));
    }
  }
  /** The cells in view as a table: what the map shows, for those who do not see it. */
  function table() {
    if (!(/** @type {HTMLDetailsElement} */ ($("table-box")).open)) return;
    const { meta, view } = raylatent.now;
    const level = draw.cellLevel();
    /** @type {any[]} */
    const rows = [];
    const [left, bottom, right, top] = camera.boxOf(view);
    const grid = geometry.gridOf(level);
    draw.eachCell(level, (block, i) => {
      const [x, y] = [(block.col[i] + 0.5) / grid, (block.row[i] + 0.5) / grid];
      if (x >= left && x <= right && y >= bottom && y <= top) rows.push([block, i]);
    });
    rows.sort((a, b) => b[0].tiles[b[1]] - a[0].tiles[a[1]]);
    const focused = $("table").contains(document.activeElement) ? document.activeElement?.textContent : null;
    $("table").replaceChildren(
      el("p", {}, `${whole(Math.min(IN_TABLE, rows.length))} of ${whole(rows.length)} cells in view.`),
      tableOf(["Cell", "Tiles", "Slide", "Label"], rows.slice(0, IN_TABLE).map(([block, i]) => {
        const id = { level, row: block.row[i], col: block.col[i] };
        return [link(`${id.row}, ${id.col}`, () => raylatent.page.open(id)), whole(block.tiles[i]),
          meta.slides[block.slide[i]].name, meta.labels.names[block.label[i]] ?? ""];
      })));
    const same = (/** @type {HTMLElement} */ one) => one.textContent === focused;
    if (focused) Array.from($("table").querySelectorAll("button")).find(same)?.focus();
  }
  function about() {
    const { meta } = raylatent.now;
    const { map, levels, points } = meta;
    const last = levels[levels.length - 1];
    $("about").replaceChildren(panel.factsOf([
      ["Run", meta.run], ["Map", `${map.name} (${map.layer})`], ["Digest", map.digest],
      ["Tiles", whole(meta.n)], ["Slides", whole(meta.slides.length)],
      ["Trustworthiness", map.trustworthiness === null ? null : short(map.trustworthiness)],
      ["Deepest grid", `${geometry.gridOf(last.level)} cells a side, ${whole(last.cells)} with tiles: ` +
        `${Math.round((100 * last.cells) / meta.n)} % of the tiles have a picture of their own`],
      ["Points", points.kind === "all" ? "all" : `a sample of ${whole(points.n)}`], ["Written", meta.created ?? null],
      ["Versions", Object.entries(meta.versions).map(([k, v]) => `${k} ${v}`).join(", ")],
    ]));
  }
  return { fill, legend, filters, selected, regions, saved, table, about };
})();

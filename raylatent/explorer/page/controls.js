"use strict";
// The controls beside the map: legend, filters, the selection, contrast, table, about.
raylatent.controls = (() => {
  const { $, address, cells, color, data, draw, geometry, panel, save, selection } = raylatent;
  const { cellLink, counted, el, link, note: noteOf, tableOf, whole, short } = panel;
  const [LISTED, IN_TABLE, MOST_TICKS] = [24, 50, 200];
  const MOST_FILES = 20; // that a page hands over one after another
  /** @returns {string[]} */
  const slideNames = () => raylatent.now.meta.slides.map((/** @type {any} */ slide) => slide.name);
  /** Puts choices into a list. @param {string} id @param {any[][]} list */
  const options = (id, list) => $(id).replaceChildren(...list.map(([value, text]) => el("option", { value }, text)));
  const swatch = (/** @type {string} */ hex) =>
    el("span", { class: "swatch", "aria-hidden": "true", style: { background: hex } });
  /** @param {string} title @param {Record<string, any>} scale @param {string[]} stops */
  function scaleOf(title, scale, stops) {
    const label = `${title}: from ${short(scale.low)} to ${short(scale.high)}`;
    const ends = [scale.low, ...(scale.logarithmic ? [] : [(scale.low + scale.high) / 2]), scale.high];
    const style = { background: `linear-gradient(to right, ${stops.join(", ")})` };
    return el("div", {}, el("div", { class: "scale", role: "img", "aria-label": label, style }),
      el("div", { class: "ends" }, ...ends.map((v) => el("span", {}, short(v)))));
  }
  function legend() {
    const { by, meta, regions, contrast: compared, showPictures, showPoints } = raylatent.now;
    $("legend").replaceChildren();
    $("contrast-legend").replaceChildren();
    if (compared) {
      const title = `Share of tiles in ${compared.names[0]} minus ${compared.names[1]}, %`;
      const scale = scaleOf(title, { low: -100 * compared.most, high: 100 * compared.most }, color.FROM_B_TO_A);
      const outlined = noteOf("Outlined in black: false discovery rate (q) below 0.05. Pale: of neither group.");
      return $("contrast-legend").append(el("h3", {}, title), scale, outlined);
    }
    const { title, note, entries, scale } = color.legendOf(meta, by, meta.levels[draw.cellLevel()], regions);
    const list = entries.slice(0, LISTED).map((one) =>
      el("li", {}, swatch(one.color), one.name + (one.count === null ? "" : `: ${whole(one.count)}`)));
    if (entries.length > LISTED) list.push(el("li", {}, `and ${entries.length - LISTED} more`));
    const dashed = by === "label" && showPictures ? " Dashed: less than half." : "";
    const paler = showPictures || showPoints || by === "density" ? "" : " Paler squares have fewer tiles.";
    $("legend").append(el("h3", {}, title), scale ? scaleOf(title, scale, color.VIRIDIS) : "",
      el("ul", { class: "list" }, ...list), noteOf(note + dashed + paler));
  }
  /** Boxes to tick. @param {string} id @param {"labels" | "slides"} which @param {any[][]} list
   * @param {number[]} all values, of which a filter has some @param {(Node | string)[]} more */
  function ticks(id, which, list, all, ...more) {
    const { now } = raylatent;
    panel.fill($(id), ...list.map(([value, name]) => {
      const change = () => {
        const kept = new Set(now[which] ?? all);
        if (!kept.delete(value)) kept.add(value);
        cells.filter({ [which]: kept.size === all.length ? null : kept });
      };
      const input = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", onchange: change }));
      input.checked = !now[which] || now[which].has(value);
      return el("label", {}, input, name);
    }), ...more);
  }
  function filters() {
    const sought = $("find-slide").value.toLowerCase();
    const { labels, n, slides } = raylatent.now.meta;
    const listed = Array.from(labels.names, (name, i) => [i, name]);
    const labeled = labels.counts.reduce((/** @type {number} */ sum, /** @type {number} */ count) => sum + count, 0);
    if (labeled < n && listed.length > 0) listed.push([data.NO_U1, "(no label)"]);
    ticks("filter-labels", "labels", listed, listed.map(([value]) => value));
    const found = Array.from(slides, ({ name }, i) => [i, name])
      .filter(([, name]) => name.toLowerCase().includes(sought));
    const only = () => {
      cells.filter({ slides: new Set(found.map(([i]) => i)) });
      filters();
    };
    ticks("filter-slides", "slides", found.slice(0, MOST_TICKS), [...slides.keys()],
      found.length > MOST_TICKS ? noteOf(`The first ${MOST_TICKS} of ${found.length}: find others.`) : "",
      sought && found.length > 0 ? link(`Only these ${found.length}`, only) : "");
  }
  /** Tells what is selected. @param {{n: number | null, slides?: number, members?: Members, why?: string} | null} told
   * n is null while it is not known, or cannot be, and why says that */
  function selected(told) {
    const { meta, rings } = raylatent.now;
    $("save").hidden = rings.length === 0 && !told;
    $("save-polygon").disabled = $("save-name").disabled = rings.length === 0; // chosen on another map, by its tiles
    $("selected").replaceChildren(told?.why ?? "Nothing is selected.");
    $("selected-bars").replaceChildren();
    if (!told || told.n === null) return;
    const { n, slides = 0, members } = told;
    const sample = meta.points.kind !== "all" && members;
    const times = sample ? meta.n / Math.max(1, meta.points.n) : 1;
    const about = sample ? `About ${counted(Math.round(n * times), "tile")} (this folder holds a sample of the ` +
      "points; the polygon file and `raylatent select` give all)" : counted(n, "tile");
    const text = `${about} of ${sample ? "at least " : ""}${counted(slides, "slide")}.` +
      (cells.filtered() ? " Tiles that the filter hides are counted too." : "") +
      (address.fits(rings) ? "" : " It is too long for the address: to send it, save the polygon file.");
    $("selected").replaceChildren(el("p", { id: "selected-n", "data-n": n }, text));
    raylatent.page.say(`Selected: ${text}`);
    /** @param {string} title @param {Iterable<number>} column @param {string[]} names @param {string[]} colors */
    const bars = (title, column, names, colors) => {
      const counts = new Map();
      for (const v of column) counts.set(v, (counts.get(v) ?? 0) + times);
      const list = panel.countsOf(counts, names, colors, n * times);
      $("selected-bars").append(panel.titled(sample ? `${title}, about` : title, list));
    };
    if (!members) return;
    bars(`Label (${meta.labels.column})`, members.label, meta.labels.names, meta.labels.colors);
    bars("Slide", members.slide, slideNames(), meta.colors_of_slides);
  }
  function regions() {
    const { by, meta, regions: named, unsaved } = raylatent.now;
    options("by", color.keysOf(meta, named.length > 0));
    $("by").value = by;
    const lines = named.map((/** @type {any} */ one) =>
      el("li", {}, swatch(one.color), link(one.name, () => selection.choose(one.rings, false))));
    const text = () => JSON.stringify(named.map((/** @type {any} */ one) => save.polygonOf(meta, one.rings, one.name)));
    const saves = () => {
      save.download("regions.json", [text()], "application/json");
      unsaved.delete(meta.map.digest);
    };
    const button = panel.button("Save regions.json", saves, { id: "save-regions" });
    panel.fill($("regions"), ...(named.length > 0 ? [el("ul", { class: "list" }, ...lines), button] : []));
  }
  /** Saves the selection. @param {"csv" | "geojson" | "roi" | "polygon"} how geojson and roi have a file a slide */
  async function saved(how) {
    const { meta, members, rings } = raylatent.now;
    const json = "application/json";
    if (how === "polygon") return save.download("polygon.json", [JSON.stringify(save.polygonOf(meta, rings))], json);
    const instead = "save the polygon file, and use `raylatent select`.";
    if (meta.points.kind !== "all" || !members) throw new Error(`The members are not all here: ${instead}`);
    const name = $("name").value;
    if (how === "csv") return save.download("selection.csv", save.csvOf(meta, members, name), "text/csv");
    const parts = save.bySlide(members);
    if (parts.length > MOST_FILES) {
      throw new Error(`These tiles are of ${whole(parts.length)} slides, and each has its own file: ${instead}`);
    }
    const none = save.withoutPlace(members);
    const sizes = parts.map(([id]) => meta.slides[id]).filter((one) => !one.window_px).map((one) => one.name);
    for (const part of parts) {
      const file = `${save.fileName(meta.slides[part[0]].name)}.`;
      if (how === "roi") save.download(`${file}csv`, save.roiOf(meta, members, name, part), "text/csv");
      else save.download(`${file}geojson`, await save.geojsonOf(meta, members, name, part), "application/geo+json");
      await new Promise((done) => setTimeout(done, 200)); // browsers drop files that come at once
    }
    const points = how === "geojson" ? "points are written for them" : "they are left out";
    raylatent.page.say(`Saved: ${counted(parts.length, "file")}.` +
      (none > 0 ? ` ${counted(none, "tile")} without a place in the slide: left out.` : "") +
      (sizes.length > 0 ? ` The size of tiles is not known for ${sizes.join(", ")}: ${points}. ` +
        "`raylatent select --slides DIR` knows it." : ""));
  }
  /** The cells in view as a table: what the map shows, for those who do not see it. */
  function table() {
    if (!$("table-box").open) return;
    const { labels, slides } = raylatent.now.meta;
    const level = draw.cellLevel();
    /** @type {any[]} */
    const rows = [];
    draw.eachCell(level, (block) => (i) => rows.push([block, i]));
    rows.sort((a, b) => b[0].tiles[b[1]] - a[0].tiles[a[1]]);
    const told = `${whole(Math.min(IN_TABLE, rows.length))} of ${whole(rows.length)} cells in view.`;
    const heads = ["Cell", "Tiles", "Slide", "Label"];
    panel.fill($("table"), el("p", {}, told), tableOf(heads, rows.slice(0, IN_TABLE).map(([block, i]) => [
      cellLink({ level, row: block.row[i], col: block.col[i] }, raylatent.page.open), whole(block.tiles[i]),
      slides[block.slide[i]].name, labels.names[block.label[i]] ?? ""])));
  }
  function about() {
    const { meta, meta: { map, levels, points } } = raylatent.now;
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
  return { options, legend, filters, selected, regions, saved, table, about };
})();

"use strict";
// The page: what it knows now, how it begins, and what its controls do.
/** @type {any} */
raylatent.now = {
  store: null, meta: null, frame: null, view: { x: 0.5, y: 0.5, scale: 500, width: 1, height: 1, box: [0, 0, 1, 1] },
  by: "", showPictures: true, showPoints: false, labels: null, slides: null, cell: null,
  similar: [], marked: null, rings: [], members: null, regions: [], regionsVersion: 0, filterVersion: 0, only: null,
  contrast: null, mode: "move", path: [], cross: false, tally: null,
  served: Boolean(/** @type {any} */ (window).raylatentServer),
};

raylatent.page = (() => {
  const { address, camera, cells, color, data, draw, geometry, now, panel, save, selection } = raylatent;
  /** @param {string} id @returns {any} */
  const $ = (id) => document.getElementById(id);
  let asked = false;
  let later = 0;
  let home = ""; // the map of this folder, whatever that is called
  /** Tells those who see, and those who hear. @param {string} text */
  function say(text) {
    $("status").textContent = text;
  }
  /** Says what went wrong in a promise. @param {Promise<any>} promise */
  function guard(promise) {
    promise.catch((error) => say(error.message));
  }
  /** Draws once before the next frame. */
  function redraw() {
    if (asked || !now.meta) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw.frame($("map"), $("overview"));
      raylatent.slide.draw();
      tell();
    });
  }
  /** Says what the pictures in view stand for, or that none is there. */
  function tell() {
    const { cells: shown, most } = draw.seen;
    const what = now.showPictures ? "picture" : "square";
    let text = shown === 0 || now.contrast || most === 0 ? "" : most === 1 ? `Each ${what} is one tile.`
      : `Each ${what} stands for ${shown > 1 ? "up to " : ""}${panel.whole(most)} tiles.`;
    if (now.showPoints && draw.points.n > cells.MOST_POINTS) text += " Zoom in to see points: too many are in view.";
    $("where").textContent = text;
    $("nearest").hidden = shown > 0 || now.store.coming.size > 0;
  }
  /** Draws, and soon brings address, legend and table up to date. */
  function changed() {
    $("tip").hidden = true;
    redraw();
    clearTimeout(later);
    later = window.setTimeout(settle, 150);
  }

  function settle() {
    if (!now.meta) return;
    const { view, cell } = now;
    const show = [now.showPictures ? "pictures" : "", now.showPoints ? "points" : ""];
    const told = address.written({
      map: now.meta.map.name, at: [view.x, view.y, view.scale], by: now.by, show: show.filter(Boolean),
      cell: cell && [cell.level, cell.row, cell.col], select: now.rings,
      labels: now.labels && [...now.labels], slides: now.slides && [...now.slides],
    });
    history.replaceState(null, "", `#${told}`);
    document.body.dataset.mode = now.mode;
    for (const mode of ["lasso", "box"]) $(mode).setAttribute("aria-pressed", String(now.mode === mode));
    raylatent.controls.legend();
    raylatent.controls.table();
    const regions = now.regions.length > 0;
    const keys = color.keysOf(now.meta, regions);
    if ($("by").options.length !== keys.length) {
      raylatent.controls.fill("by", keys);
      $("by").value = now.by;
    }
  }
  /** @param {CellId | null} cell */
  const open = (cell) => guard(panel.open(cell));
  /** Moves to a cell, and opens it. @param {CellId} cell */
  function go(cell) {
    const grid = geometry.gridOf(cell.level);
    const scale = Math.max(now.view.scale, now.meta.cell_px * grid * 0.75);
    const [x, y] = [(cell.col + 0.5) / grid, (cell.row + 0.5) / grid];
    now.view = camera.held({ ...now.view, x, y, scale }, raylatent.gestures.most());
    open(cell);
  }
  /** Moves the map where the panel lies over a cell. @param {CellId} cell */
  function uncover(cell) {
    const grid = geometry.gridOf(cell.level);
    const [left] = camera.toScreen(now.view, cell.col / grid, 0);
    const covered = $("panel").getBoundingClientRect().right - $("map").getBoundingClientRect().left;
    if (left < covered && covered < now.view.width) raylatent.gestures.move(covered - left + 8, 0);
  }
  /** What lies under the pointer. @param {CellId | null} cell @param {number[]} place */
  function hover(cell, place) {
    const found = cell && cells.here(cell);
    $("tip").hidden = !found;
    if (!found) return;
    const { block, i } = found;
    const label = now.meta.labels.names[block.label[i]];
    $("tip").textContent = `${now.meta.slides[block.slide[i]].name}${label ? `, ${label}` : ""}: ` +
      panel.counted(block.tiles[i], "tile");
    $("tip").style.transform = `translate(${place[0] + 14}px, ${place[1] + 14}px)`;
  }
  /** @param {string} id of a box that is ticked or not */
  const toggle = (id) => $(id).click();

  function resized() {
    const box = $("map-box").getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const first = now.view.width === 1;
    [now.view.width, now.view.height] = [Math.max(1, box.width), Math.max(1, box.height)];
    [$("map").width, $("map").height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (first) now.view = camera.whole(now.view);
    redraw();
  }

  function wire() {
    const { controls, gestures } = raylatent;
    /** @type {Record<string, () => void>} */
    const clicks = {
      closer: () => gestures.zoom(1.5), farther: () => gestures.zoom(1 / 1.5),
      whole: () => gestures.look(camera.whole(now.view)),
      lasso: () => gestures.enter(now.mode === "lasso" ? "move" : "lasso"),
      box: () => gestures.enter(now.mode === "box" ? "move" : "box"),
      nearest: () => gestures.look(camera.whole(now.view)), "in-view": selection.inView, clear: selection.clear,
      "panel-close": () => { open(null); $("map").focus(); },
      "save-csv": () => guard(controls.saved("csv")), "save-roi": () => guard(controls.saved("roi")),
      "save-geojson": () => guard(controls.saved("geojson")), "save-polygon": () => save.download("polygon.json",
        [JSON.stringify(save.polygonOf(now.meta, now.rings))], "application/json"),
      "save-name": () => {
        const name = $("name").value.trim();
        if (!name) say("Write a name first.");
        else {
          selection.name([{ name, rings: now.rings }]);
          say("It is kept until the page is closed: save regions.json.");
        }
      },
      "on-slides": () => guard(raylatent.sheet.open()), "sheet-close": () => $("sheet").close(),
      "filter-none": () => { cells.filter(null, null); controls.filters(); },
      "contrast-go": () => guard(raylatent.compare.compare()),
      "contrast-end": raylatent.compare.end,
    };
    for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
    /** @type {Record<string, () => void>} */
    const changes = {
      by: () => { now.by = $("by").value; now.contrast = null; },
      "show-pictures": () => { now.showPictures = $("show-pictures").checked; },
      "show-points": () => { now.showPoints = $("show-points").checked; },
    };
    for (const [id, act] of Object.entries(changes)) {
      $(id).addEventListener("change", () => { act(); changed(); });
    }
    $("find-slide").addEventListener("input", controls.filters);
    $("table-box").addEventListener("toggle", controls.table);
    $("open-file").addEventListener("change", () => guard(opened($("open-file").files[0])));
    $("panel").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") clicks["panel-close"]();
    });
    $("maps").addEventListener("change", () => guard(begin($("maps").value, "")));
    new ResizeObserver(resized).observe($("map-box"));
    window.addEventListener("hashchange", () => location.reload());
    gestures.attach($("map"));
    gestures.attachOverview($("overview"));
  }
  /** Polygons from a file. @param {File | undefined} file */
  async function opened(file) {
    if (!file) return;
    const given = save.regionsOf(now.meta, await file.text());
    const named = given.filter((one) => one.name);
    if (named.length > 0) selection.name(named);
    if (given.length === 1) await selection.choose(given[0].rings, false);
    else say(`${panel.counted(named.length, "named selection")} of ${given.length} areas were read.`);
    $("open-file").value = "";
  }
  /** What the address asks for. @param {Told} told */
  function recall(told) {
    const keys = color.keysOf(now.meta, now.regions.length > 0).map(([key]) => key);
    now.by = keys.includes(told.by) ? told.by : keys.includes("label") ? "label" : "slide";
    if (told.show) {
      now.showPictures = told.show.includes("pictures");
      now.showPoints = told.show.includes("points");
    }
    if (told.at) {
      const [x, y, scale] = told.at;
      now.view = camera.held({ ...now.view, x, y, scale }, raylatent.gestures.most());
    }
    cells.filter(told.labels && new Set(told.labels), told.slides && new Set(told.slides));
    const [level, row, col] = told.cell ?? [-1, 0, 0];
    if (now.meta.levels[level]) open({ level, row, col });
    if (told.select.length > 0) guard(selection.select(told.select));
  }
  /** Begins with a map: this folder's, or that of a folder beside it; a selection comes along by its tiles.
   * @param {string} name "" is this folder's @param {string} hash the address, or "" */
  async function begin(name, hash) {
    const { members: carried, store: before, meta: from } = now;
    const store = new data.Store(name && name !== home ? `../${encodeURIComponent(name)}/` : "", redraw);
    const meta = await store.script("meta").finally(() => ($("maps").value = now.meta?.map.name));
    const { map } = meta;
    home ||= map.name;
    /** @type {{n: number, bbox: number[]}[]} */
    const blocks = meta.points.blocks;
    Object.assign(now, { store, meta, cell: null, similar: [], rings: [], members: null, regions: [], contrast: null,
      tally: null, only: null, frame: { x0: map.lower[0], y0: map.lower[1], side: map.side } });
    meta.points.n ??= blocks.reduce((n, block) => n + block.n, 0);
    now.view.box = camera.around(now.frame, blocks.map((block) => block.bbox));
    $("title").textContent = document.title = [meta.run, map.name].filter(Boolean).join(": ");
    $("panel").hidden = true;
    $("contrast-told").replaceChildren();
    if (meta.regions) selection.name(save.regionsOf(meta, JSON.stringify(meta.regions)));
    if (now.served) {
      const kept = await fetch(`${store.base}regions.json`);
      if (kept.ok) guard(kept.text().then((text) => selection.name(save.regionsOf(meta, text))));
    }
    /** @type {string[]} */
    const maps = (meta.maps ?? []).map((/** @type {{name: string}} */ one) => one.name);
    $("maps-box").hidden = maps.length < 2;
    raylatent.controls.fill("maps", maps.map((one) => [one, one]));
    $("maps").value = map.name;
    resized();
    if (before) now.view = camera.whole(now.view);
    const told = address.read(hash);
    // Only a map that this one knows: an address comes from others.
    if (!before && told.map !== map.name && maps.includes(told.map)) {
      if (await begin(told.map, hash).then(() => true, (error) => say(error.message))) return;
    }
    recall({ ...told, by: told.by || now.by });
    if (carried && from?.points.kind === "all") guard(selection.carry(carried, from.slides));
    $("show-pictures").checked = now.showPictures;
    $("show-points").checked = now.showPoints;
    raylatent.controls.fill("by", color.keysOf(meta, now.regions.length > 0));
    $("by").value = now.by;
    raylatent.compare.lists();
    raylatent.controls.filters();
    raylatent.controls.about();
    changed();
    if (!document.body.dataset.ready) wire();
    document.body.dataset.ready = "1";
  }
  return { $, say, guard, redraw, changed, open, go, uncover, hover, toggle, begin };
})();

raylatent.page.guard(raylatent.page.begin("", location.hash));

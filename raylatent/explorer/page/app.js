"use strict";
// The page: what it knows now, how it begins, and what its controls do.
/** @type {any} */
raylatent.now = {
  meta: null, view: { x: 0.5, y: 0.5, scale: 500, width: 1, height: 1, box: [0, 0, 1, 1] }, by: "", mode: "move",
  showPictures: true, showPoints: false, labels: null, slides: null, cell: null, contrast: null, members: null,
  only: null, similar: [], marked: null, rings: [], path: [], regions: [], regionsVersion: 0, filterVersion: 0,
  unsaved: new Set(), cross: false, served: Boolean(/** @type {any} */ (window).raylatentServer),
};
raylatent.page = (() => {
  const { $, address, camera, cells, color, data, draw, geometry, now, panel, save, selection } = raylatent;
  let asked = false;
  let later = 0;
  let home = ""; // the map of this folder, whatever that is called
  const named = new Map(); // the named selections of the maps that were shown, by their digests
  /** Tells those who see, and those who hear. @param {string} text */
  const say = (text) => ($("status").textContent = text);
  /** Says what went wrong in a promise. @param {Promise<any>} promise */
  const guard = (promise) => void promise.catch((error) => say(error.message));
  /** Draws once before the next frame. */
  function redraw() {
    if (asked || !now.meta) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      $("cross").hidden = !now.cross;
      draw.frame($("map"));
      raylatent.slide.draw();
      tell();
    });
  }
  /** Says what the pictures in view stand for, or that none is there. */
  function tell() {
    const { cells: shown, most, unfiltered } = draw.seen;
    const what = now.showPictures ? "picture" : "square";
    let text = shown === 0 || now.contrast || most === 0 ? "" : most === 1 ? `Each ${what} is one tile.`
      : `Each ${what} stands for ${shown > 1 ? "up to " : ""}${panel.whole(most)} tiles.`;
    if (now.showPoints && draw.points.n > cells.MOST_POINTS) text += " Zoom in to see points: too many are in view.";
    const why = now.meta.points.kind === "all" ? "zoom in" : "this folder has only a sample of the points";
    if (unfiltered) text += ` The filter is not applied here: ${why}.`;
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
    const told = address.written({
      map: now.meta.map.name, at: [view.x, view.y, view.scale], by: now.by,
      show: [...(now.showPictures ? ["pictures"] : []), ...(now.showPoints ? ["points"] : [])],
      cell: cell && [cell.level, cell.row, cell.col], select: now.rings,
      labels: now.labels && [...now.labels], slides: now.slides && [...now.slides],
    });
    history.replaceState(null, "", `#${told}`);
    $("show-pictures").checked = now.showPictures;
    $("show-points").checked = now.showPoints;
    document.body.dataset.mode = now.mode;
    for (const mode of ["lasso", "box"]) $(mode).setAttribute("aria-pressed", String(now.mode === mode));
    raylatent.controls.legend();
    raylatent.controls.table();
  }
  const open = (/** @type {CellId | null} */ cell) => guard(panel.open(cell));
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
    const names = [now.meta.slides[block.slide[i]].name, now.meta.labels.names[block.label[i]]];
    $("tip").textContent = `${names.filter(Boolean).join(", ")}: ${panel.counted(block.tiles[i], "tile")}`;
    $("tip").style.transform = `translate(${place[0] + 14}px, ${place[1] + 14}px)`;
  }
  function resized() {
    const box = $("map-box").getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const first = now.view.width === 1;
    [now.view.width, now.view.height] = [Math.max(1, box.width), Math.max(1, box.height)];
    [$("map").width, $("map").height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (first) now.view = camera.whole(now.view);
    now.store.holds(now.view.width, now.view.height);
    redraw();
  }
  function wire() {
    const { controls, gestures } = raylatent;
    const draws = (/** @type {"lasso" | "box"} */ mode) => {
      gestures.enter(now.mode === mode ? "move" : mode);
      $("map").focus();
    };
    /** @type {Record<string, () => void>} */
    const clicks = {
      closer: () => gestures.zoom(1.5), farther: () => gestures.zoom(1 / 1.5),
      whole: () => gestures.look(camera.whole(now.view)),
      nearest: () => { clicks.whole(); $("map").focus(); },
      lasso: () => draws("lasso"), box: () => draws("box"), "in-view": selection.inView, clear: selection.clear,
      "panel-close": () => { open(null); $("map").focus(); },
      "save-name": () => {
        const name = $("name").value.trim();
        if (name) selection.name([{ name, rings: now.rings }]);
        if (name) now.unsaved.add(now.meta.map.digest);
        say(name ? "It is kept until the page is closed: save regions.json." : "Write a name first.");
      },
      "on-slides": () => guard(raylatent.sheet.open()), "sheet-close": () => $("sheet").close(),
      "filter-none": () => { cells.filter({ labels: null, slides: null }); controls.filters(); },
      "contrast-go": () => guard(raylatent.compare.compare()), "contrast-end": raylatent.compare.end,
    };
    for (const how of /** @type {const} */ (["csv", "geojson", "roi", "polygon"])) {
      clicks[`save-${how}`] = () => guard(controls.saved(how));
    }
    for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
    for (const id of ["by", "show-pictures", "show-points"]) {
      $(id).addEventListener("change", () => {
        if (id === "by") now.contrast = null;
        now.by = $("by").value;
        [now.showPictures, now.showPoints] = [$("show-pictures").checked, $("show-points").checked];
        changed();
      });
    }
    $("find-slide").addEventListener("input", controls.filters);
    $("table-box").addEventListener("toggle", controls.table);
    $("open-file").addEventListener("change", () => guard(opened($("open-file").files[0])));
    const leave = (/** @type {KeyboardEvent} */ { key }) => key === "Escape" && clicks["panel-close"]();
    $("panel").addEventListener("keydown", leave);
    $("maps").addEventListener("change", () => guard(begin($("maps").value, "")));
    new ResizeObserver(resized).observe($("map-box"));
    window.addEventListener("beforeunload", (event) => now.unsaved.size > 0 && event.preventDefault());
    window.addEventListener("hashchange", () => {
      const told = address.read(location.hash);
      if (told.map && told.map !== now.meta.map.name) location.reload();
      else recall(told);
    });
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
    now.by = $("by").value = keys.includes(told.by) ? told.by : keys.includes("label") ? "label" : "slide";
    const { show } = told;
    if (show) [now.showPictures, now.showPoints] = ["pictures", "points"].map((one) => show.includes(one));
    const [x, y, scale] = told.at ?? [now.view.x, now.view.y, now.view.scale];
    now.view = camera.held({ ...now.view, x, y, scale }, raylatent.gestures.most());
    cells.filter({ labels: told.labels && new Set(told.labels), slides: told.slides && new Set(told.slides) });
    raylatent.controls.filters();
    const [level, row, col] = told.cell ?? [-1, 0, 0];
    open(now.meta.levels[level] ? { level, row, col } : null);
    if (told.select.length > 0) guard(selection.choose(told.select, false));
    else if (now.rings.length > 0) selection.clear();
    changed();
  }
  /** Begins with a map: this folder's, or that of a folder beside it; a selection comes along by its tiles.
   * @param {string} name "" is this folder's @param {string} hash the address, or "" */
  async function begin(name, hash) {
    const { members: carried, store: before, meta: from } = now;
    const store = new data.Store(name && name !== home ? `../${encodeURIComponent(name)}/` : "", redraw);
    const meta = await store.script("meta").finally(() => ($("maps").value = now.meta?.map.name));
    const { map } = meta;
    home ||= map.name;
    if (now.meta) named.set(now.meta.map.digest, now.regions);
    const known = named.get(map.digest);
    Object.assign(now, { store, meta, cell: null, similar: [], rings: [], members: null, regions: [], contrast: null,
      tally: null, only: null, frame: { x0: map.lower[0], y0: map.lower[1], side: map.side } });
    // Of no width: the whole map comes into view as soon as there is one.
    const boxes = Array.from(meta.points.blocks, (block) => block.bbox);
    now.view = { ...now.view, width: 1, box: camera.around(now.frame, boxes) };
    $("title").textContent = document.title = [meta.run, map.name].filter(Boolean).join(": ");
    $("contrast-told").replaceChildren();
    selection.name(known ?? save.regionsOf(meta, JSON.stringify(meta.regions ?? [])));
    if (now.served && !known) {
      const kept = await fetch(`${store.base}regions.json`);
      if (kept.ok) guard(kept.text().then((text) => selection.name(save.regionsOf(meta, text))));
    }
    const maps = Array.from(meta.maps ?? [], (one) => String(one.name));
    $("maps-box").hidden = maps.length < 2;
    raylatent.controls.options("maps", maps.map((one) => [one, one]));
    $("maps").value = map.name;
    resized();
    const told = address.read(hash);
    // Only a map that this one knows: an address comes from others.
    if (!before && told.map !== map.name && maps.includes(told.map)) {
      if (await begin(told.map, hash).then(() => true, (error) => say(error.message))) return;
    }
    recall({ ...told, by: told.by || now.by });
    if (carried && from?.points.kind === "all") guard(selection.carry(carried, from.slides));
    raylatent.controls.about();
    if (!document.body.dataset.ready) wire();
    document.body.dataset.ready = "1";
  }
  return { say, guard, redraw, changed, open, go, uncover, hover, begin };
})();

raylatent.page.guard(raylatent.page.begin("", location.hash));

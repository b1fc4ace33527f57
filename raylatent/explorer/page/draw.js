"use strict";
// One frame: pictures, cells, points, a contrast, and what is selected, on one canvas without WebGL.
raylatent.draw = (() => {
  const { $, camera, cells, color, geometry, data } = raylatent;
  const CELL_WITHOUT_PICTURE = 16;
  const LEAST_MARK = 24; // CSS pixels
  const FRAMED_FROM = 40; // CSS pixels, from which cells are framed in the color of a contrast, and their tiles seen
  const OWN_SIZE_FROM = 150; // CSS pixels, from which a tile is drawn from its picture at its own size
  const points = { canvas: document.createElement("canvas"), n: 0 };
  const seen = { cells: 0, most: 0, unfiltered: false }; // how many cells were drawn, of at most how many tiles
  /** @type {CanvasRenderingContext2D} */
  let ctx;
  /** The squares of 8 x 8 cells in view. @param {number} level */
  function groups(level) {
    const across = geometry.gridOf(level) / 8;
    const [left, bottom, right, top] = camera.boxOf(raylatent.now.view);
    const step = (/** @type {number} */ share) => Math.max(0, Math.min(across - 1, Math.floor(share * across)));
    const found = [];
    if (right < 0 || left > 1 || top < 0 || bottom > 1) return [];
    for (let row = step(bottom); row <= step(top); row += 1) {
      for (let col = step(left); col <= step(right); col += 1) found.push({ row, col });
    }
    return found;
  }
  /** The level whose pictures are shown now: where cells of a contrast are large enough, theirs at least. */
  function pictureLevel() {
    const { contrast, meta, view } = raylatent.now;
    const level = camera.levelOf(view, meta.cell_px, cells.deepestPicture());
    const compared = Math.min(contrast ? contrast.level : 0, cells.deepestPicture());
    return view.scale / geometry.gridOf(compared) < CELL_WITHOUT_PICTURE ? level : Math.max(level, compared);
  }
  /** The level whose cells are shown and answer to a click now. */
  function cellLevel() {
    const { contrast, view, showPictures } = raylatent.now;
    if (contrast) return contrast.level;
    if (showPictures) return Math.min(pictureLevel(), cells.deepest());
    return camera.levelOf(view, CELL_WITHOUT_PICTURE, cells.deepest());
  }
  /** A square's picture, or part of a coarser one. @param {number} level @param {number} col @param {number} top */
  function pictureOf(level, col, top) {
    const { store } = raylatent.now;
    for (let up = 0; up <= level; up += 1) {
      const path = cells.pathOf(level - up, col >> up, top >> up);
      // The coarsest is always fetched, the others are used where they are here.
      const fetched = up === 0 || up === level;
      const image = fetched ? store.picture(path) : store.pictureHere(path);
      if (image) {
        const side = image.naturalWidth / 2 ** up;
        const part = 2 ** up - 1;
        return { image, x: (col & part) * side, y: (top & part) * side, side };
      }
    }
    return null;
  }
  function drawPictures() {
    const { view } = raylatent.now;
    const level = pictureLevel();
    const across = geometry.gridOf(level) / 8;
    for (const { row, col } of groups(level)) {
      const top = across - 1 - row;
      if (!cells.hasPicture(level, col, top)) continue;
      const found = pictureOf(level, col, top);
      if (!found) continue;
      const [left, upper] = camera.toScreen(view, col / across, (row + 1) / across);
      const size = view.scale / across;
      // Whole pixels, so that neighbors leave no seam.
      const [x, y] = [Math.round(left), Math.round(upper)];
      const [w, h] = [Math.round(left + size) - x, Math.round(upper + size) - y];
      ctx.drawImage(found.image, found.x, found.y, found.side, found.side, x, y, w, h);
    }
  }
  /** Calls back for each cell in view with its place on the screen. @param {number} level @param {(block: Block) =>
   * (i: number, x: number, y: number, size: number) => void} of what to do with the cells of a block */
  function eachCell(level, of) {
    const { view } = raylatent.now;
    const grid = geometry.gridOf(level);
    const size = view.scale / grid;
    for (const group of groups(level)) {
      for (const { block, from, to } of cells.inGroup(level, group.row, group.col)) {
        const each = of(block);
        for (let i = from; i < to; i += 1) {
          const [x, y] = camera.toScreen(view, block.col[i] / grid, (block.row[i] + 1) / grid);
          if (x + size > 0 && y + size > 0 && x < view.width && y < view.height) each(i, x, y, size);
        }
      }
    }
  }
  /** Draws a tile that is stored at its own size. @type {(tile: Tile, ...at: [number, number, number]) => void} */
  function drawOwn(tile, x, y, side) {
    const stored = cells.storedOf(tile);
    const image = stored && raylatent.now.store.picture(stored.path);
    if (!image) return;
    const [left, top, width, height] = stored.partOf(image);
    const least = Math.min(width, height);
    ctx.drawImage(image, left + (width - least) / 2, top + (height - least) / 2, least, least, x, y, side, side);
  }
  function drawCells() {
    const { by, meta, showPictures } = raylatent.now;
    const level = cellLevel();
    const most = Math.log(1 + (meta.levels[level].most ?? meta.n));
    const deepest = showPictures && level === pictureLevel();
    eachCell(level, (block) => {
      const colors = cells.colors(block, level, true);
      const left = cells.left(level, block);
      seen.unfiltered ||= cells.filtered() && !left;
      return (i, x, y, size) => {
        if (deepest && size >= OWN_SIZE_FROM) drawOwn(cells.tileIn(block, i), x, y, size);
        Object.assign(seen, { cells: seen.cells + 1, most: Math.max(seen.most, block.tiles[i]) });
        const n = left ? left[i] : block.tiles[i];
        if (showPictures && n === 0) {
          ctx.fillStyle = "rgba(235,235,235,0.88)";
          ctx.fillRect(x, y, size, size);
        } else if (!showPictures && n > 0) {
          const alpha = by === "density" ? 1 : 0.3 + (0.7 * Math.log(1 + n)) / most;
          ctx.fillStyle = color.css(colors[i], alpha);
          ctx.fillRect(x, y, Math.max(1, size - (size > 6 ? 1 : 0)), Math.max(1, size - 1));
        } else if (showPictures && by !== "none") {
          ctx.strokeStyle = color.css(colors[i]);
          ctx.lineWidth = Math.min(4, size / 16);
          const mixed = by === "label" && block.label[i] !== data.NO_U1 && block.share[i] < 0.5;
          ctx.setLineDash(mixed ? [size / 8, size / 8] : []);
          const inset = ctx.lineWidth / 2;
          ctx.strokeRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
        }
      };
    });
    ctx.setLineDash([]);
  }
  /** @param {number[]} numbers of blocks @param {number} ratio device pixels a CSS pixel */
  function drawPoints(numbers, ratio) {
    const { view, frame, store } = raylatent.now;
    const { n } = points;
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    Object.assign(points.canvas, { width, height });
    const context = /** @type {CanvasRenderingContext2D} */ (points.canvas.getContext("2d"));
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const size = Math.round(ratio * (n > 300_000 ? 2 : n > 30_000 ? 3 : 5));
    const sx = view.scale * ratio;
    const unit = sx / frame.side;
    const ox = (view.width / 2 - view.x * view.scale) * ratio - size / 2;
    const oy = (view.height / 2 + view.y * view.scale) * ratio - size / 2;
    for (const number of numbers) {
      const block = store.block(`points/${number}`);
      if (!block) continue;
      const colors = cells.colors(block, 0, false);
      const { x: xs, y: ys } = block;
      for (let i = 0; i < block.n; i += 1) {
        const packed = colors[i];
        const px = Math.round((xs[i] - frame.x0) * unit + ox);
        const py = Math.round(oy - (ys[i] - frame.y0) * unit);
        if (packed === 0 || px < 0 || py < 0 || px + size > width || py + size > height) continue;
        for (let y = py * width; y < (py + size) * width; y += width) {
          for (let x = px; x < px + size; x += 1) pixels[y + x] = packed;
        }
      }
    }
    context.putImageData(image, 0, 0);
    ctx.drawImage(points.canvas, 0, 0, view.width, view.height);
  }
  /** The cells of a contrast. */
  function drawContrast() {
    const { contrast: compared, view, showPictures } = raylatent.now;
    const grid = geometry.gridOf(compared.level);
    const [size, frame] = [view.scale / grid, view.scale / grid / 8];
    const framed = showPictures && size >= FRAMED_FROM;
    const others = pathOf([], false); // what is of neither group turns pale
    others.rect(0, 0, view.width, view.height);
    for (const one of compared.cells) {
      const row = Math.floor(one.cell / grid);
      const [x, y] = camera.toScreen(view, (one.cell % grid) / grid, (row + 1) / grid);
      if (x + size < 0 || y + size < 0 || x > view.width || y > view.height) continue;
      others.rect(x, y, size, size);
      const share = 0.5 + (0.5 * one.difference) / compared.most;
      const shade = color.css(color.onScale(color.FROM_B_TO_A, share));
      [ctx.fillStyle, ctx.strokeStyle, ctx.lineWidth] = [shade, shade, frame];
      if (framed) ctx.strokeRect(x + frame / 2, y + frame / 2, size - frame, size - frame);
      else ctx.fillRect(x, y, size, size);
      if (one.q < raylatent.contrast.Q) {
        [ctx.strokeStyle, ctx.lineWidth] = ["#000000", Math.max(1.5, Math.min(4, size / 10))];
        ctx.strokeRect(x + 1, y + 1, size - 2, size - 2);
      }
    }
    ctx.fillStyle = "rgba(255,255,255,0.7)";
    ctx.fill(others, "evenodd");
  }
  /** Rings as a path on the screen. @param {Ring[]} rings @param {boolean} closed */
  function pathOf(rings, closed) {
    const { frame, view } = raylatent.now;
    const path = new Path2D();
    for (const ring of rings) {
      const places = ring.map(([x, y]) => camera.toScreen(view, ...geometry.shareOf(frame, x, y)));
      if (places.length > 0) path.moveTo(...places[0]);
      for (const place of places) path.lineTo(...place);
      if (closed) path.closePath();
    }
    return path;
  }
  /** The selection, and the named ones. */
  function drawSelections() {
    const { rings, view, path, regions } = raylatent.now;
    if (rings.length > 0) {
      const outside = pathOf(rings, true);
      outside.rect(0, 0, view.width, view.height);
      ctx.fillStyle = "rgba(225,225,225,0.72)";
      ctx.fill(outside, "evenodd");
    }
    /** @type {[Path2D, string][]} */
    const lines = regions.map((/** @type {any} */ one) => [pathOf(one.rings, true), one.color]);
    lines.push([pathOf(rings, true), "#000000"], [pathOf([path], false), "#000000"]);
    for (const [line, stroke] of lines) {
      [ctx.strokeStyle, ctx.lineWidth] = ["#ffffff", 4];
      ctx.stroke(line);
      [ctx.strokeStyle, ctx.lineWidth] = [stroke, 2];
      ctx.stroke(line);
    }
  }
  /** The open cell, and the tile that was picked in a list; what is similar is dashed. */
  function drawMarks() {
    drawSelections();
    const { cell, similar, marked, view, frame } = raylatent.now;
    [ctx.strokeStyle, ctx.lineWidth] = ["#C0006A", 3];
    for (const [one, dash] of [[cell, []], ...similar.map((/** @type {CellId} */ id) => [id, [6, 4]])]) {
      if (!one) continue;
      const grid = geometry.gridOf(one.level);
      const [x, y] = camera.toScreen(view, one.col / grid, (one.row + 1) / grid);
      const side = view.scale / grid;
      const more = Math.max(0, (LEAST_MARK - side) / 2);
      ctx.setLineDash(dash);
      ctx.strokeRect(x - more, y - more, side + 2 * more, side + 2 * more);
    }
    ctx.setLineDash([]);
    if (!marked) return;
    ctx.beginPath();
    ctx.arc(...camera.toScreen(view, ...geometry.shareOf(frame, marked[0], marked[1])), 7, 0, 2 * Math.PI);
    ctx.stroke();
  }
  /** The whole map in small, and what of it is in view, where that is less. */
  function overview() {
    const { view, store } = raylatent.now;
    const [left, bottom, right, top] = camera.boxOf(view);
    const [first, lowest, last, highest] = view.box;
    $("overview").hidden = left <= first && bottom <= lowest && right >= last && top >= highest;
    if ($("overview").hidden) return;
    const picture = store.base + cells.pathOf(0, 0, 0);
    if ($("overview-map").getAttribute("src") !== picture) $("overview-map").setAttribute("src", picture);
    const percent = (/** @type {number} */ share) => `${100 * share}%`;
    Object.assign($("overview-view").style, { left: percent(left), bottom: percent(bottom),
      width: percent(right - left), height: percent(top - bottom) });
  }
  /** One frame. @param {HTMLCanvasElement} canvas */
  function frame(canvas) {
    const { now } = raylatent;
    Object.assign(seen, { cells: 0, most: 0, unfiltered: false });
    const ratio = window.devicePixelRatio || 1;
    ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = "#ffffff";
    ctx.fillRect(0, 0, now.view.width, now.view.height);
    if (now.showPictures) drawPictures();
    if (now.contrast) drawContrast();
    const inView = cells.pointsIn(cells.inUnits(camera.boxOf(now.view)));
    points.n = inView.n;
    const numbers = now.showPoints && points.n <= cells.MOST_POINTS ? inView.numbers : null;
    if (!now.contrast && (now.showPictures || !numbers)) drawCells();
    if (numbers) drawPoints(numbers, ratio);
    if (numbers || now.contrast) seen.cells = points.n;
    drawMarks();
    overview();
  }
  return { frame, groups, pictureLevel, cellLevel, eachCell, points, seen };
})();

"use strict";
// One frame: pictures, cells, points, and what is selected, on one canvas without WebGL.
raylatent.draw = (() => {
  const { camera, cells, color, geometry } = raylatent;
  const CELL_WITHOUT_PICTURE = 16;
  const MOST_ENLARGED = 4; // cells that a picture may be wide where it is alone
  const OWN_SIZE_FROM = 150; // CSS pixels, from which a tile is drawn from its picture at its own size
  const points = { canvas: document.createElement("canvas"), n: 0 };
  /** What was drawn: how many cells, of at most how many tiles, and pictures wider than their cells. @type {{cells:
   * number, most: number, wide: (CellId & {x: number, y: number, side: number})[]}} */
  const seen = { cells: 0, most: 0, wide: [] };
  /** @type {CanvasRenderingContext2D} */
  let ctx;
  /** The squares of 8 x 8 cells in view, or so many cells beside it. @param {number} level @param {number} near */
  function groups(level, near = 0) {
    const across = geometry.gridOf(level) / 8;
    const more = [-near, -near, near, near].map((v) => v / geometry.gridOf(level));
    const [left, bottom, right, top] = camera.boxOf(raylatent.now.view).map((v, i) => v + more[i]);
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
    const { store, meta } = raylatent.now;
    const first = Math.ceil(Math.log2(8 * meta.cell_px));
    for (let up = 0; up <= level; up += 1) {
      const path = `mosaic_files/${level - up + first}/${col >> up}_${top >> up}.jpg`;
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
  /** Calls back for each cell in view with its place on the screen. @param {number} level @param {(block: Block, i:
   * number, x: number, y: number, size: number) => void} each @param {number} [near] */
  function eachCell(level, each, near) {
    const { view } = raylatent.now;
    const grid = geometry.gridOf(level);
    const size = view.scale / grid;
    for (const group of groups(level, near)) {
      for (const { block, from, to } of cells.inGroup(level, group.row, group.col)) {
        for (let i = from; i < to; i += 1) {
          const [x, y] = camera.toScreen(view, block.col[i] / grid, (block.row[i] + 1) / grid);
          each(block, i, x, y, size);
        }
      }
    }
  }

  /** How many cells wide a picture may be. @param {Set<number>} filled @param {number} id @param {number} grid */
  function roomOf(filled, id, grid) {
    for (let reach = 1; reach < MOST_ENLARGED; reach += 1) {
      for (let d = -reach; d <= reach; d += 1) {
        for (const to of [d * grid - reach, d * grid + reach, d - reach * grid, d + reach * grid]) {
          if (filled.has(id + to)) return reach;
        }
      }
    }
    return MOST_ENLARGED;
  }
  /** Draws one cell's picture larger, or at its own size. @param {Block} block @param {number} i
   * @param {number} level @param {number} x @param {number} y @param {number} side */
  function drawWide(block, i, level, x, y, side) {
    const { meta, store } = raylatent.now;
    const own = side >= OWN_SIZE_FROM && block.picture[i] !== raylatent.data.NO_U4
      ? store.picture(`tiles/${Math.floor(block.picture[i] / 100)}/${block.picture[i]}.jpg`) : null;
    if (own) {
      const [slot, least] = [block.slot[i], Math.min(block.width[i], block.height[i])];
      const px = own.naturalWidth / 4;
      const [left, top] = [(slot % 4) * px + (block.width[i] - least) / 2, (slot >> 2) * px + (block.height[i] - least) / 2];
      ctx.drawImage(own, left, top, least, least, x, y, side, side);
      return;
    }
    const [row, col] = [block.row[i], block.col[i]];
    const found = pictureOf(level, col >> 3, geometry.gridOf(level) / 8 - 1 - (row >> 3));
    if (!found || found.side < 8) return;
    const px = found.side / 8;
    ctx.drawImage(found.image, found.x + (col & 7) * px, found.y + (7 - (row & 7)) * px, px, px, x, y, side, side);
  }

  function drawCells() {
    const { by, meta, showPictures, view } = raylatent.now;
    const level = cellLevel();
    const grid = geometry.gridOf(level);
    const most = Math.log(1 + (meta.levels[level].most ?? meta.n));
    const near = showPictures && level === pictureLevel() ? MOST_ENLARGED : 0;
    const filled = new Set();
    if (near) eachCell(level, (block, i) => filled.add(block.row[i] * grid + block.col[i]), 2 * near);
    /** @type {Block | null} */
    let last = null;
    /** @type {Uint32Array} */
    let colors = new Uint32Array(0);
    /** @type {ArrayLike<number> | null} */
    let left = null;
    eachCell(level, (block, i, x, y, size) => {
      const id = { level, row: block.row[i], col: block.col[i] };
      const room = near ? roomOf(filled, id.row * grid + id.col, grid) : 1;
      if (room > 1) {
        [x, y, size] = [x - ((room - 1) / 2) * size, y - ((room - 1) / 2) * size, room * size - 2];
        seen.wide.push({ ...id, x, y, side: size });
      }
      if (room > 1 || (near && size >= OWN_SIZE_FROM)) drawWide(block, i, level, x, y, size);
      if (x + size > 0 && y + size > 0 && x < view.width && y < view.height) {
        [seen.cells, seen.most] = [seen.cells + 1, Math.max(seen.most, block.tiles[i])];
      }
      if (block !== last) {
        last = block;
        colors = cells.colors(block, level, true);
        left = cells.left(level, block);
      }
      const n = left ? left[i] : block.tiles[i];
      if (showPictures && left && n === 0) {
        ctx.fillStyle = "rgba(235,235,235,0.88)";
        ctx.fillRect(x, y, size, size);
      } else if (!showPictures && n > 0) {
        const alpha = by === "density" ? 1 : 0.3 + (0.7 * Math.log(1 + n)) / most;
        ctx.fillStyle = color.css(colors[i], alpha);
        ctx.fillRect(x, y, Math.max(1, size - (size > 6 ? 1 : 0)), Math.max(1, size - 1));
      } else if (showPictures && by !== "none") {
        ctx.strokeStyle = color.css(colors[i]);
        ctx.lineWidth = Math.min(4, size / 16);
        const mixed = by === "label" && block.share[i] < 0.5;
        ctx.setLineDash(mixed ? [size / 8, size / 8] : []);
        const inset = ctx.lineWidth / 2;
        ctx.strokeRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
      }
    }, near);
    ctx.setLineDash([]);
  }
  /** The blocks of points in view, if they are few enough to be drawn. */
  function pointsInView() {
    const { numbers, n } = cells.pointsIn(cells.inUnits(camera.boxOf(raylatent.now.view)));
    points.n = n;
    return raylatent.now.showPoints && n <= cells.MOST_POINTS ? numbers : null;
  }
  /** @param {number[]} numbers of blocks @param {number} ratio device pixels a CSS pixel */
  function drawPoints(numbers, ratio) {
    const { view, frame, store } = raylatent.now;
    const { n } = points;
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (points.canvas.width !== width) points.canvas.width = width;
    if (points.canvas.height !== height) points.canvas.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (points.canvas.getContext("2d"));
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const size = Math.round(ratio * (n > 300_000 ? 2 : n > 30_000 ? 3 : 5));
    const sx = view.scale * ratio;
    const ox = (view.width / 2 - view.x * view.scale) * ratio - size / 2;
    const oy = (view.height / 2 + view.y * view.scale) * ratio - size / 2;
    for (const number of numbers) {
      const block = store.block(`points/${number}`);
      if (!block) continue;
      const colors = cells.colors(block, 0, false);
      const { tx, ty } = cells.sharesOf(block, frame);
      for (let i = 0; i < block.n; i += 1) {
        const packed = colors[i];
        const px = Math.round(tx[i] * sx + ox);
        const py = Math.round(oy - ty[i] * sx);
        if (packed === 0 || px < 0 || py < 0 || px + size > width || py + size > height) continue;
        for (let y = py * width; y < (py + size) * width; y += width) {
          for (let x = px; x < px + size; x += 1) pixels[y + x] = packed;
        }
      }
    }
    context.putImageData(image, 0, 0);
    ctx.drawImage(points.canvas, 0, 0, view.width, view.height);
  }

  /** One frame. @param {HTMLCanvasElement} canvas @param {HTMLCanvasElement} small */
  function frame(canvas, small) {
    const { now } = raylatent;
    Object.assign(seen, { cells: 0, most: 0, wide: [] });
    const ratio = window.devicePixelRatio || 1;
    ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = "#ffffff";
    ctx.fillRect(0, 0, now.view.width, now.view.height);
    if (now.showPictures) drawPictures();
    if (now.contrast) raylatent.marks.contrast(ctx);
    const numbers = pointsInView();
    if (!now.contrast && (now.showPictures || !numbers)) drawCells();
    if (numbers) drawPoints(numbers, ratio);
    if (numbers || now.contrast) seen.cells = points.n;
    raylatent.marks.draw(ctx, seen);
    raylatent.marks.overview(small);
  }
  return { frame, groups, pictureLevel, cellLevel, eachCell, points, seen };
})();

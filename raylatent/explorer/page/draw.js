"use strict";
// One frame: pictures, cells, points, and what is selected, on one canvas without WebGL.
var raylatent = raylatent || {};

raylatent.draw = (() => {
  const { camera, cells, color, geometry } = raylatent;
  const FRAMED_FROM = 20; // CSS pixels of a cell, from which its color is a frame
  const CELL_WITHOUT_PICTURE = 16;
  const points = { canvas: document.createElement("canvas"), n: 0 };
  /** @type {CanvasRenderingContext2D} */
  let ctx;
  /** The squares of 8 x 8 cells in view: columns and rows from the bottom. @param {number} level */
  function groups(level) {
    const across = geometry.gridOf(level) / 8;
    const [left, bottom, right, top] = camera.boxOf(raylatent.now.view);
    const step = (/** @type {number} */ share) =>
      Math.max(0, Math.min(across - 1, Math.floor(share * across)));
    const found = [];
    if (right < 0 || left > 1 || top < 0 || bottom > 1) return [];
    for (let row = step(bottom); row <= step(top); row += 1) {
      for (let col = step(left); col <= step(right); col += 1) found.push({ row, col });
    }
    return found;
  }
  /** The level whose pictures are shown now. */
  const pictureLevel = () =>
    camera.levelOf(raylatent.now.view, raylatent.now.meta.cell_px, cells.deepestPicture());
  /** The level whose cells are shown and answer to a click now. */
  function cellLevel() {
    const { view, showPictures } = raylatent.now;
    if (showPictures) return Math.min(pictureLevel(), cells.deepest());
    return camera.levelOf(view, CELL_WITHOUT_PICTURE, cells.deepest());
  }
  /** The picture of a square, or the part of a coarser one until it is here. @param {number} level
   * @param {number} col @param {number} top */
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
  /** Calls back for each cell in view with its place on the screen. @param {number} level
   * @param {(block: Block, i: number, x: number, y: number, size: number) => void} each */
  function eachCell(level, each) {
    const { view } = raylatent.now;
    const grid = geometry.gridOf(level);
    const size = view.scale / grid;
    for (const group of groups(level)) {
      for (const { block, from, to } of cells.inGroup(level, group.row, group.col)) {
        for (let i = from; i < to; i += 1) {
          const [x, y] = camera.toScreen(view, block.col[i] / grid, (block.row[i] + 1) / grid);
          each(block, i, x, y, size);
        }
      }
    }
  }

  function drawCells() {
    const { by, meta, showPictures, strength } = raylatent.now;
    const level = cellLevel();
    const most = Math.log(1 + (meta.levels[level].most ?? meta.n));
    /** @type {Block | null} */
    let last = null;
    /** @type {Uint32Array} */
    let colors = new Uint32Array(0);
    /** @type {ArrayLike<number> | null} */
    let left = null;
    eachCell(level, (block, i, x, y, size) => {
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
        ctx.fillStyle = color.css(colors[i], strength);
        ctx.fillRect(x, y, size, size);
        if (size < FRAMED_FROM) return;
        ctx.strokeStyle = color.css(colors[i]);
        ctx.lineWidth = Math.min(4, size / 16);
        const mixed = by === "label" && block.share[i] < 0.5;
        ctx.setLineDash(mixed ? [size / 8, size / 8] : []);
        const inset = ctx.lineWidth / 2;
        ctx.strokeRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
      }
    });
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

  function drawContrast() {
    const { contrast, view } = raylatent.now;
    const grid = geometry.gridOf(contrast.level);
    const size = view.scale / grid;
    for (const one of contrast.cells) {
      const row = Math.floor(one.cell / grid);
      const [x, y] = camera.toScreen(view, (one.cell % grid) / grid, (row + 1) / grid);
      if (x + size < 0 || y + size < 0 || x > view.width || y > view.height) continue;
      const share = 0.5 + (0.5 * one.difference) / contrast.most;
      ctx.fillStyle = color.css(color.onScale(color.FROM_B_TO_A, share), 0.72);
      ctx.fillRect(x, y, size, size);
      if (one.q < raylatent.contrast.Q) {
        ctx.strokeStyle = "#000000";
        ctx.lineWidth = Math.max(1.5, Math.min(3, size / 10));
        ctx.strokeRect(x + 1, y + 1, size - 2, size - 2);
      }
    }
  }
  /** Rings as a path on the screen. @param {Ring[]} rings @param {boolean} closed */
  function trace(rings, closed) {
    const { frame, view } = raylatent.now;
    for (const ring of rings) {
      ring.forEach(([x, y], i) => {
        const [px, py] = camera.toScreen(view, ...geometry.shareOf(frame, x, y));
        if (i === 0) ctx.moveTo(px, py);
        else ctx.lineTo(px, py);
      });
      if (closed) ctx.closePath();
    }
  }

  function drawSelection() {
    const { rings, view, path, regions } = raylatent.now;
    if (rings.length > 0) {
      ctx.beginPath();
      ctx.rect(0, 0, view.width, view.height);
      trace(rings, true);
      ctx.fillStyle = "rgba(225,225,225,0.72)";
      ctx.fill("evenodd");
    }
    /** @type {[Ring[], string, boolean][]} */
    const lines = regions.map((/** @type {any} */ one) => [one.rings, one.color, true]);
    lines.push([rings, "#000000", true], [path.length > 0 ? [path] : [], "#000000", false]);
    for (const [drawn, stroke, closed] of lines) {
      for (const [style, width] of /** @type {[string, number][]} */ ([["#ffffff", 4], [stroke, 2]])) {
        ctx.beginPath();
        trace(drawn, closed);
        ctx.strokeStyle = style;
        ctx.lineWidth = width;
        ctx.stroke();
      }
    }
  }
  /** The open cell, the tile that was picked in a list, and the cross of the keyboard. */
  function drawMarks() {
    const { cell, marked, cross, view, frame } = raylatent.now;
    ctx.lineWidth = 3;
    ctx.strokeStyle = "#C0006A";
    if (cell) {
      const grid = geometry.gridOf(cell.level);
      const [x, y] = camera.toScreen(view, cell.col / grid, (cell.row + 1) / grid);
      ctx.strokeRect(x, y, view.scale / grid, view.scale / grid);
    }
    if (marked) {
      const [x, y] = camera.toScreen(view, ...geometry.shareOf(frame, marked[0], marked[1]));
      ctx.beginPath();
      ctx.arc(x, y, 7, 0, 2 * Math.PI);
      ctx.stroke();
    }
    if (cross) {
      const [x, y] = [view.width / 2, view.height / 2];
      ctx.beginPath();
      for (const [dx, dy] of [[12, 0], [0, 12]]) {
        ctx.moveTo(x - dx, y - dy);
        ctx.lineTo(x + dx, y + dy);
      }
      ctx.stroke();
    }
  }
  /** One frame. @param {HTMLCanvasElement} canvas */
  function frame(canvas) {
    const { now } = raylatent;
    const ratio = window.devicePixelRatio || 1;
    ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = "#ffffff";
    ctx.fillRect(0, 0, now.view.width, now.view.height);
    if (now.showPictures) drawPictures();
    if (now.contrast) drawContrast();
    const numbers = pointsInView();
    if (!now.contrast && (now.showPictures || !numbers)) drawCells();
    if (numbers) drawPoints(numbers, ratio);
    drawSelection();
    drawMarks();
  }

  return { frame, groups, pictureLevel, cellLevel, eachCell, points };
})();

"use strict";
// What is drawn over the tiles: a contrast, selections, marks, and the overview in the corner.
raylatent.marks = (() => {
  const { camera, cells, color, geometry } = raylatent;
  const OVERVIEW_PX = 150;
  const LEAST_MARK = 24; // CSS pixels
  const FRAMED_FROM = 40; // CSS pixels, from which cells are framed in the color of a contrast, and their tiles seen
  /** The cells of a contrast. @param {CanvasRenderingContext2D} ctx */
  function contrast(ctx) {
    const { contrast: compared, view, showPictures } = raylatent.now;
    const grid = geometry.gridOf(compared.level);
    const size = view.scale / grid;
    const framed = showPictures && size >= FRAMED_FROM;
    const frame = framed ? size / 8 : 0;
    for (const one of compared.cells) {
      const row = Math.floor(one.cell / grid);
      const [x, y] = camera.toScreen(view, (one.cell % grid) / grid, (row + 1) / grid);
      if (x + size < 0 || y + size < 0 || x > view.width || y > view.height) continue;
      const share = 0.5 + (0.5 * one.difference) / compared.most;
      const shade = color.css(color.onScale(color.FROM_B_TO_A, share));
      [ctx.fillStyle, ctx.strokeStyle, ctx.lineWidth] = [shade, shade, frame];
      if (framed) ctx.strokeRect(x + frame / 2, y + frame / 2, size - frame, size - frame);
      else ctx.fillRect(x, y, size, size);
      if (one.q < raylatent.contrast.Q) {
        ctx.strokeStyle = "#000000";
        ctx.lineWidth = Math.max(1.5, Math.min(4, size / 10));
        ctx.strokeRect(x + 1, y + 1, size - 2, size - 2);
      }
    }
  }
  /** Rings as a path on the screen. @param {CanvasRenderingContext2D} ctx @param {Ring[]} rings @param {boolean} closed */
  function trace(ctx, rings, closed) {
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

  /** The selection, and the named ones. @param {CanvasRenderingContext2D} ctx */
  function selection(ctx) {
    const { rings, view, path, regions } = raylatent.now;
    if (rings.length > 0) {
      ctx.beginPath();
      ctx.rect(0, 0, view.width, view.height);
      trace(ctx, rings, true);
      ctx.fillStyle = "rgba(225,225,225,0.72)";
      ctx.fill("evenodd");
    }
    /** @type {[Ring[], string, boolean][]} */
    const lines = regions.map((/** @type {any} */ one) => [one.rings, one.color, true]);
    lines.push([rings, "#000000", true], [path.length > 0 ? [path] : [], "#000000", false]);
    for (const [drawn, stroke, closed] of lines) {
      for (const [style, width] of /** @type {[string, number][]} */ ([["#ffffff", 4], [stroke, 2]])) {
        ctx.beginPath();
        trace(ctx, drawn, closed);
        ctx.strokeStyle = style;
        ctx.lineWidth = width;
        ctx.stroke();
      }
    }
  }
  /** The open cell, the tile that was picked in a list, and the cross of the keyboard; what is similar is dashed.
   * @param {CanvasRenderingContext2D} ctx */
  function draw(ctx) {
    selection(ctx);
    const { cell, similar, marked, cross, view, frame } = raylatent.now;
    ctx.lineWidth = 3;
    ctx.strokeStyle = "#C0006A";
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
  /** The whole map in small, and what of it is in view. @param {HTMLCanvasElement} canvas */
  function overview(canvas) {
    const { view } = raylatent.now;
    const [left, bottom, right, top] = view.box;
    const box = camera.boxOf(view);
    canvas.hidden = box[0] <= left && box[1] <= bottom && box[2] >= right && box[3] >= top;
    if (canvas.hidden) return;
    const scale = OVERVIEW_PX / Math.max(right - left, top - bottom);
    [canvas.width, canvas.height] = [(right - left) * scale, (top - bottom) * scale];
    const small = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const level = Math.min(2, cells.deepest());
    const size = scale / geometry.gridOf(level);
    for (let b = 0; b < raylatent.now.meta.levels[level].blocks.length; b += 1) {
      const block = raylatent.now.store.block(`cells/${level}/${b}`);
      const colors = block ? cells.colors(block, level, true) : [];
      for (let i = 0; block && i < block.n; i += 1) {
        small.fillStyle = color.css(colors[i]);
        small.fillRect(block.col[i] * size - left * scale, top * scale - (block.row[i] + 1) * size, size, size);
      }
    }
    [small.strokeStyle, small.lineWidth] = ["#C0006A", 2];
    const [w, h] = [(box[2] - box[0]) * scale, (box[3] - box[1]) * scale];
    small.strokeRect((box[0] - left) * scale, (top - box[3]) * scale, Math.max(4, w), Math.max(4, h));
  }
  return { contrast, draw, overview };
})();

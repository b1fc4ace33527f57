"use strict";
// Pointers, wheel and keys on the map; the keyboard alone can do everything.
raylatent.gestures = (() => {
  const { camera, cells, draw, geometry } = raylatent;
  const [STILL, STEP_OF_LASSO] = [4, 3]; // CSS pixels by which a click may move, and a corner follows another
  /** The place in map units at a place of the screen. @type {(px: number, py: number) => [number, number]} */
  function placeAt(px, py) {
    const { view, frame } = raylatent.now;
    const [x, y] = camera.toShare(view, px, py);
    const place = (/** @type {number} */ v) => Number(v.toPrecision(9)); // addresses and files stay short
    return [place(frame.x0 + x * frame.side), place(frame.y0 + y * frame.side)];
  }
  /** The cell at a place of the screen, or null. @param {number} px @param {number} py @returns {CellId | null} */
  function cellAt(px, py) {
    const [x, y] = camera.toShare(raylatent.now.view, px, py);
    if (x < 0 || y < 0 || x > 1 || y > 1) return null;
    const level = draw.cellLevel();
    const grid = geometry.gridOf(level);
    return { level, row: geometry.stepOf(y, grid), col: geometry.stepOf(x, grid) };
  }
  /** The scale at which the deepest cells are four times their own size. */
  const most = () => 4 * geometry.gridOf(cells.deepestPicture()) * raylatent.now.meta.cell_px;
  function look(/** @type {View} */ view) {
    raylatent.now.view = view;
    raylatent.page.changed();
  }
  /** @param {number} factor @param {number} [px] @param {number} [py] */
  function zoom(factor, px, py) {
    const { view } = raylatent.now;
    look(camera.zoomed(view, factor, px ?? view.width / 2, py ?? view.height / 2, most()));
  }
  /** @param {number} dx @param {number} dy */
  const move = (dx, dy) => look(camera.moved(raylatent.now.view, dx, dy, most()));
  /** The overview brings one where it is pressed. @param {HTMLElement} small */
  function attachOverview(small) {
    small.onpointerdown = small.onpointermove = ({ buttons, offsetX, offsetY }) => {
      const [x, y] = [offsetX / small.clientWidth, 1 - offsetY / small.clientHeight];
      if (buttons === 1) look(camera.held({ ...raylatent.now.view, x, y }, most()));
    };
  }
  /** Changes what a drag does. @param {"move" | "lasso" | "box"} mode */
  function enter(mode) {
    Object.assign(raylatent.now, { mode, path: [] });
    raylatent.page.changed();
    if (mode === "move") return;
    raylatent.page.say(`${mode === "lasso" ? "Lasso" : "Box"}: drag over the map, or move it by arrows ` +
      "and set corners with the space bar; Enter closes, Escape leaves.");
  }
  /** Closes the ring that is being drawn. @param {boolean} added */
  function close(added) {
    const { mode, path } = raylatent.now;
    const ring = mode === "box" && path.length > 1 ? geometry.ringOf([...path[0], ...path[path.length - 1]]) : path;
    enter("move");
    if (ring.length > 2) raylatent.page.guard(raylatent.selection.choose([ring], added));
    else raylatent.page.say("An area needs three corners: nothing was selected.");
  }
  /** A corner in the middle of the view, by the keyboard. @param {boolean} added */
  function corner(added) {
    const { now } = raylatent;
    now.path.push(placeAt(now.view.width / 2, now.view.height / 2));
    if (now.mode === "box" && now.path.length === 2) close(added);
    else raylatent.page.say(`Corner ${now.path.length} is set.`);
    raylatent.page.changed();
  }
  /** Whether a key did something: it acts, or presses the button marked with it. @param {KeyboardEvent} event */
  function key(event) {
    const { now, now: { view }, page } = raylatent;
    const cell = view.scale / geometry.gridOf(draw.cellLevel());
    const step = event.shiftKey ? cell : Math.min(view.width, view.height) / 8;
    const drawing = now.mode !== "move";
    const middle = () => page.open(cellAt(view.width / 2, view.height / 2));
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0),
      ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
      Enter: () => (drawing ? close(event.shiftKey) : middle()),
      " ": () => (drawing ? corner(event.shiftKey) : middle()),
      Escape: () => (drawing ? enter("move") : page.open(null)),
    };
    const held = event.ctrlKey || event.metaKey ? "Control+" : "";
    const pressed = held + (event.key.length === 1 ? event.key.toLowerCase() : event.key);
    const marked = /** @type {HTMLElement} */ (document.querySelector(`[data-key~="${CSS.escape(pressed)}"]`));
    const action = event.altKey ? null : actions[pressed] ?? marked?.click.bind(marked);
    if (!action) return false;
    now.cross = true;
    action();
    return true;
  }
  /** @param {HTMLCanvasElement} canvas */
  function attach(canvas) {
    const { now, page } = raylatent;
    /** @type {Map<number, [number, number]>} */
    const down = new Map();
    let travelled = 0;
    const at = (/** @type {MouseEvent} */ { offsetX, offsetY }) => /** @type {[number, number]} */ ([offsetX, offsetY]);
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || (now.mode !== "move" && down.size > 0)) return;
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, at(event));
      now.cross = false;
      travelled = 0;
      if (now.mode !== "move") now.path = [placeAt(...at(event))];
    });
    canvas.addEventListener("pointermove", (event) => {
      const was = down.get(event.pointerId);
      const is = at(event);
      if (!was) return page.hover(cellAt(...is), is);
      const [dx, dy] = [is[0] - was[0], is[1] - was[1]];
      if (now.mode !== "move") {
        if (Math.hypot(dx, dy) < STEP_OF_LASSO) return;
        if (now.mode === "box") now.path = [now.path[0], placeAt(...is)];
        else now.path.push(placeAt(...is));
        page.redraw();
      } else if (down.size === 2) {
        const other = [...down].filter(([id]) => id !== event.pointerId)[0][1];
        const apart = Math.hypot(was[0] - other[0], was[1] - other[1]);
        const factor = Math.hypot(is[0] - other[0], is[1] - other[1]) / Math.max(1, apart);
        move(dx / 2, dy / 2);
        zoom(factor, (is[0] + other[0]) / 2, (is[1] + other[1]) / 2);
      } else if (travelled + Math.hypot(dx, dy) > STILL) {
        move(dx, dy);
      }
      travelled += Math.hypot(dx, dy);
      if (now.mode !== "lasso" || travelled > 0) down.set(event.pointerId, is);
    });
    const up = (/** @type {PointerEvent} */ event) => {
      const was = down.delete(event.pointerId);
      if (!was || event.type === "pointercancel") return;
      if (now.mode !== "move") close(event.shiftKey);
      else if (travelled <= STILL && down.size === 0) page.open(cellAt(...at(event)));
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => page.hover(null, [0, 0]));
    canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
      zoom(Math.exp(-Math.max(-200, Math.min(200, pixels)) / 400), ...at(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => key(event) && event.preventDefault());
  }
  return { attach, attachOverview, placeAt, cellAt, zoom, move, look, enter, key, most };
})();

"use strict";
// Where one looks: the middle of the view as a share of the frame (y upward), and how
// many CSS pixels the frame's side has; `box` is where the tiles are. Pure functions.
/** @typedef {{x: number, y: number, scale: number, width: number, height: number, box: number[]}} View */
raylatent.camera = (() => {
  const ROOM = 96; // CSS pixels for the pictures at the edges
  /** The screen place of a share. @param {View} v @param {number} x @param {number} y @returns {[number, number]} */
  const toScreen = (v, x, y) => [(x - v.x) * v.scale + v.width / 2, v.height / 2 - (y - v.y) * v.scale];
  /** The share at a screen place. @param {View} v @param {number} px @param {number} py @returns {[number, number]} */
  const toShare = (v, px, py) => [v.x + (px - v.width / 2) / v.scale, v.y - (py - v.height / 2) / v.scale];
  /** What is in view [left, bottom, right, top], in shares. @type {(v: View) => [number, number, number, number]} */
  function boxOf(v) {
    const [left, bottom] = toShare(v, 0, v.height);
    const [right, top] = toShare(v, v.width, 0);
    return [left, bottom, right, top];
  }
  const within = (/** @type {number} */ value, /** @type {number} */ low, /** @type {number} */ high) =>
    Math.max(low, Math.min(high, value));
  /** The middle stays where tiles are. @param {View} v @param {number} most scale @returns {View} */
  function held(v, most) {
    const [left, bottom, right, top] = v.box;
    const scale = within(v.scale, 0.4 * whole(v).scale, most);
    return { ...v, x: within(v.x, left, right), y: within(v.y, bottom, top), scale };
  }
  /** Closer by a factor, the place under the pointer staying where it is. @param {View} v @param {number} factor
   * @param {number} px @param {number} py @param {number} most */
  function zoomed(v, factor, px, py, most) {
    const { scale } = held({ ...v, scale: v.scale * factor }, most);
    const [x, y] = toShare(v, px, py);
    return held({ ...v, scale, x: x - (px - v.width / 2) / scale, y: y + (py - v.height / 2) / scale }, most);
  }
  /** Moved by pixels of the screen. @param {View} v @param {number} dx @param {number} dy @param {number} most */
  const moved = (v, dx, dy, most) => held({ ...v, x: v.x - dx / v.scale, y: v.y + dy / v.scale }, most);
  /** All tiles in view, and some room for their pictures. @param {View} v @returns {View} */
  function whole(v) {
    const [left, bottom, right, top] = v.box;
    const scale = Math.min((v.width - ROOM) / (right - left), (v.height - ROOM) / (top - bottom));
    return { ...v, x: (left + right) / 2, y: (bottom + top) / 2, scale: Math.max(50, scale) };
  }
  /** The box of boxes of places, as shares, never less than a little. @param {Frame} frame @param {number[][]} boxes */
  function around(frame, boxes) {
    const ends = [0, 1, 2, 3].map((i) => boxes.map((box) => (box[i] - (i % 2 ? frame.y0 : frame.x0)) / frame.side));
    const box = ends.map((list, i) => list.reduce((a, b) => (i < 2 ? Math.min(a, b) : Math.max(a, b))));
    return box.map((v, i) => v + (i < 2 ? -0.01 : 0.01));
  }
  /** The level whose cells are between half of their own size and that size on the screen, or as near as there is
   * one. @param {View} v @param {number} cellPx @param {number} deepest */
  function levelOf(v, cellPx, deepest) {
    const level = Math.floor(Math.log2(v.scale / (8 * (cellPx / 2))) + 1e-9);
    return Math.max(0, Math.min(deepest, level));
  }
  return { toScreen, toShare, boxOf, held, zoomed, moved, whole, around, levelOf };
})();

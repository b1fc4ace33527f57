"use strict";
// Where one looks: the middle of the view as a share of the frame (y upward), and how
// many CSS pixels the frame's side has. Pure functions.
var raylatent = raylatent || {};

/** @typedef {{x: number, y: number, scale: number, width: number, height: number}} View */

raylatent.camera = (() => {
  /** The screen place of a share. @param {View} v @param {number} x @param {number} y
   * @returns {[number, number]} */
  const toScreen = (v, x, y) => [(x - v.x) * v.scale + v.width / 2, v.height / 2 - (y - v.y) * v.scale];
  /** The share at a screen place. @param {View} v @param {number} px @param {number} py
   * @returns {[number, number]} */
  const toShare = (v, px, py) => [v.x + (px - v.width / 2) / v.scale, v.y - (py - v.height / 2) / v.scale];
  /** What is in view [left, bottom, right, top], in shares. @param {View} v
   * @returns {[number, number, number, number]} */
  function boxOf(v) {
    const [left, bottom] = toShare(v, 0, v.height);
    const [right, top] = toShare(v, v.width, 0);
    return [left, bottom, right, top];
  }
  /** The middle stays within the frame. @param {View} v @param {number} most scale @returns {View} */
  function held(v, most) {
    const least = 0.4 * Math.min(v.width, v.height) || 1;
    return {
      ...v,
      x: Math.max(0, Math.min(1, v.x)),
      y: Math.max(0, Math.min(1, v.y)),
      scale: Math.max(least, Math.min(most, v.scale)),
    };
  }
  /** Closer by a factor, the place under the pointer staying where it is. @param {View} v
   * @param {number} factor @param {number} px @param {number} py @param {number} most */
  function zoomed(v, factor, px, py, most) {
    const scale = held({ ...v, scale: v.scale * factor }, most).scale;
    const [x, y] = toShare(v, px, py);
    return held(
      {
        ...v,
        scale,
        x: x - (px - v.width / 2) / scale,
        y: y + (py - v.height / 2) / scale,
      },
      most,
    );
  }
  /** Moved by pixels of the screen. @param {View} v @param {number} dx @param {number} dy
   * @param {number} most */
  const moved = (v, dx, dy, most) => held({ ...v, x: v.x - dx / v.scale, y: v.y + dy / v.scale }, most);
  /** The whole frame in view. @param {View} v @returns {View} */
  const whole = (v) => ({ ...v, x: 0.5, y: 0.5, scale: Math.max(50, 0.96 * Math.min(v.width, v.height)) });
  /** The level whose cells are between half of their own size and that size on the screen, or as near as
   * there is one. @param {View} v @param {number} cellPx @param {number} deepest */
  function levelOf(v, cellPx, deepest) {
    const level = Math.floor(Math.log2(v.scale / (8 * (cellPx / 2))) + 1e-9);
    return Math.max(0, Math.min(deepest, level));
  }

  return { toScreen, toShare, boxOf, held, zoomed, moved, whole, levelOf };
})();

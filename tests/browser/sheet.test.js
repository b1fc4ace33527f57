"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./load.js");

globalThis.raylatent = { ...globalThis.raylatent, selection: {}, panel: {}, color: {}, save: {} };
const { sheet } = load("geometry.js", "data.js", "sheet.js");
const NONE = -2147483648;
const members = {
  n: 5,
  slide: Uint32Array.of(2, 2, 4, 4, 4),
  loc_x: Int32Array.of(500, 900, 100, NONE, 140),
  loc_y: Int32Array.of(50, 60, 10, NONE, 30),
};

test("a slide is shown whole, and without its size where its tiles lie", () => {
  assert.deepEqual(sheet.extentOf({ width: 3000, height: 2000 }, members, 3, 5), [0, 0, 3000, 2000]);
  assert.deepEqual(sheet.extentOf({ window_px: 20 }, members, 2, 5), [80, -10, 80, 60]);
});

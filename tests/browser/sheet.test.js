"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./load.js");

globalThis.raylatent = { ...globalThis.raylatent, selection: {}, panel: {}, color: {} };
const { sheet } = load("geometry.js", "data.js", "sheet.js");
const NONE = -2147483648;
const members = {
  n: 5,
  slide: Uint32Array.of(4, 2, 2, 9, 4),
  loc_x: Int32Array.of(100, 500, 900, NONE, 140),
  loc_y: Int32Array.of(10, 50, 60, NONE, 30),
};

test("slides with most tiles come first, and tiles without a place are not on them", () => {
  assert.deepEqual(sheet.bySlide(members), [[2, [1, 2]], [4, [0, 4]]]);
});

test("a slide is shown whole, and without its size where its tiles lie", () => {
  assert.deepEqual(sheet.extentOf({ width: 3000, height: 2000 }, members, [0, 4]), [0, 0, 3000, 2000]);
  assert.deepEqual(sheet.extentOf({ window_px: 20 }, members, [0, 4]), [80, -10, 80, 60]);
});

"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./load.js");

const { color } = load("geometry.js", "color.js");
const meta = {
  n: 100,
  labels: { column: "subtype", names: ["A", "B"], colors: ["#112233", "#445566"], counts: [60, 40] },
  classes: ["A", "B"],
  slides: [{ name: "s", tiles: 60 }, { name: "t", tiles: 40 }],
  colors_of_slides: ["#010203", "#040506"],
  novelty: { has: true, max: 2 },
  annotations: {
    columns: [
      { name: "age", kind: "number", values: [40, null], names: [] },
      { name: "site", kind: "category", values: [1, null], names: ["x", "y"] },
    ],
  },
};
const cells = {
  n: 2, tiles: [1, 100], label: [1, 255], top_slide: [0, 1], pred: [0, 255],
  mean_0: [0, NaN], novelty: [2, NaN], x: [0.5, 9], y: [0.5, 9],
};
const paint = (key, block = cells, regions = []) =>
  [...color.paint(meta, key, { most: 100 }, regions, block, true)].map((p) => color.css(p));
const css = (hex) => color.css(color.packed(hex));

test("colors are pixels in the order of bytes red, green, blue, opaque", () => {
  const bytes = new Uint8Array(Uint32Array.of(color.packed("#0A64FF")).buffer);
  assert.deepEqual([...bytes], [10, 100, 255, 255]);
  assert.equal(css("#0A64FF"), "rgba(10,100,255,1)");
  assert.equal(color.css(color.onScale(["#000000", "#FFFFFF"], 0.5)), "rgba(128,128,128,1)");
  assert.equal(color.onScale(color.VIRIDIS, 9), color.packed("#FDE725"));
});

test("cells have the color of what they are, and grey for what is not known", () => {
  const grey = css("#BBBBBB");
  assert.deepEqual(paint("label"), [css("#445566"), grey]);
  assert.deepEqual(paint("slide"), [css("#010203"), css("#040506")]);
  assert.deepEqual(paint("prediction"), [css("#0072B2"), grey]);
  assert.deepEqual(paint("mean:0"), [css(color.VIRIDIS[0]), grey]);
  assert.deepEqual(paint("novelty"), [css("#FDE725"), grey]);
  assert.deepEqual(paint("density"), [css(color.VIRIDIS[0]), css("#FDE725")]);
  assert.deepEqual(paint("annotation:0"), [css(color.VIRIDIS[0]), grey]);
  assert.deepEqual(paint("annotation:1"), [css("#E69F00"), grey]);
});

test("named selections color what lies in them", () => {
  const { edgesOf } = globalThis.raylatent.geometry;
  const edges = edgesOf([[[0, 0], [1, 0], [1, 1], [0, 1]]]);
  assert.deepEqual(paint("region", cells, [{ name: "i", color: "#112233", edges }]), [css("#112233"), css("#BBBBBB")]);
});

test("every way to color has a legend with names or a scale", () => {
  for (const [key] of color.keysOf(meta, true)) {
    const legend = color.legendOf(meta, key, { most: 9 }, [{ name: "i", color: "#112233" }]);
    if (key !== "none") assert.ok(legend.title && (legend.scale || legend.entries.length > 0), key);
  }
  assert.equal(color.keysOf(meta, false).some(([key]) => key === "region"), false);
});

test("categories beyond the eighth have colors of their own", () => {
  const found = Array.from({ length: 24 }, (_, i) => color.ofCategory(i));
  assert.equal(new Set(found).size, 24);
  for (const one of found) assert.match(one, /^#[0-9A-F]{6}$/);
});

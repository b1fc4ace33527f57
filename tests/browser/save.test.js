"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./load.js");

const { save } = load("geometry.js", "save.js");
const meta = {
  fingerprint: "f00d",
  map: { digest: "d1" },
  labels: { column: "label", of: "tile", names: ['a,"b"', "=1+1"], colors: ["#0072B2", "#E69F00"] },
  classes: ["LUAD"],
  slides: [
    { name: "007", window_px: 301, bounds: [70, 900] },
    { name: "../b:c", window_px: null, bounds: null },
  ],
};
const members = {
  n: 4,
  slide: Uint32Array.of(0, 0, 0, 1),
  tile: Uint32Array.of(3, 5, 9, 1),
  loc_x: Int32Array.of(1000, 1301, -2147483648, 40),
  loc_y: Int32Array.of(2000, 2000, -2147483648, 50),
  x: Float32Array.of(0.1, 1, 2, 3),
  y: Float32Array.of(-0.5, 1, 2, 3),
  label: Uint8Array.of(0, 1, 255, 255),
  novelty: Float32Array.of(0.25, NaN, 1, 1),
  pred: Uint8Array.of(0, 255, 0, 0),
};

test("UUIDs are those of Python", async () => {
  // uuid.uuid5(uuid.NAMESPACE_URL, "raylatent:f00d:ü:3")
  assert.equal(await save.uuid5("raylatent:f00d:ü:3"), "131e0a14-a48c-52de-a8f3-86dec2aa8471");
});

test("floats have as few digits as tell them", () => {
  const meta1 = { slides: [{ name: "s" }], labels: { names: [] } };
  for (const v of [0.1, 1 / 3, 123456.789, -3e-20, 16777217, 5e30]) {
    const one = { ...members, n: 1, slide: [0], x: Float32Array.of(v), y: Float32Array.of(v) };
    const text = save.csvOf(meta1, one, "")[1].split(",")[4];
    assert.equal(Math.fround(Number(text)), Math.fround(v));
    assert.ok(text.replace(/e.*/, "").length <= 12, text);
  }
});

test("CSV is quoted, has no formula, and its floats come back", () => {
  const lines = save.csvOf(meta, members, "@x").join("").split("\r\n");
  assert.equal(lines[0].startsWith("slide,tile_index,loc_x,loc_y,x,y"), true);
  assert.equal(lines[1], `007,3,1000,2000,0.1,-0.5,0.25,"a,""b""",'@x`);
  assert.equal(lines[2], "007,5,1301,2000,1,1,,'=1+1,'@x");
  assert.equal(lines[3], "007,9,,,2,2,1,,'@x");
  assert.equal(Math.fround(Number(lines[1].split(",")[4])), Math.fround(0.1));
  assert.equal(lines.length, 6);
  // What the page is colored by is no label of the tiles' own, and "others" is none.
  const others = ["(other labels)", "(other labels)"];
  for (const about of [{ of: "slide" }, { column: "region" }, { names: others }]) {
    const told = save.csvOf({ ...meta, labels: { ...meta.labels, ...about } }, members, "").join("").split("\r\n");
    assert.deepEqual(told.slice(1, 3), ["007,3,1000,2000,0.1,-0.5,0.25,,", "007,5,1301,2000,1,1,,,"]);
  }
});

test("GeoJSON is one file a slide, minus the bounds, with squares around the middle", async () => {
  const parts = save.bySlide(members);
  assert.deepEqual(parts, [[0, 0, 3], [1, 3, 4]]);
  assert.deepEqual(meta.slides.map(({ name }) => save.fileName(name)), ["007", "%2E%2E%2Fb%3Ac"]);
  const files = await Promise.all(parts.map((part) => save.geojsonOf(meta, members, "island", part)));
  const [first, second] = files.map((pieces) => JSON.parse(pieces.join("")));
  assert.equal(save.withoutPlace(members), 1);
  assert.equal(first.features.length, 2);
  const [square] = first.features[0].geometry.coordinates;
  const [left, top] = [1000 - 150 - 70, 2000 - 150 - 900];
  assert.deepEqual(square, [[left, top], [left + 301, top], [left + 301, top + 301], [left, top + 301], [left, top]]);
  assert.equal(first.features[0].properties.objectType, "detection");
  assert.deepEqual(first.features[0].properties.classification, { name: "island", color: [0, 114, 178] });
  assert.equal(first.features[0].id, await save.uuid5("raylatent:f00d:007:3"));
  assert.equal("knn_distance" in first.features[1].properties.measurements, false);
  for (const value of Object.values(first.features[0].properties.metadata)) assert.equal(typeof value, "string");
  assert.deepEqual(second.features[0].geometry, { type: "Point", coordinates: [40, 50] });
});

test("regions for Slideflow are in pixels of the whole slide", () => {
  const [file, none] = save.bySlide(members).map((part) => save.roiOf(meta, members, "is,land", part));
  const rows = file.join("").trim().split("\r\n");
  assert.equal(rows[0], "roi_name,x_base,y_base,label");
  // The two tiles touch: they are one rectangle.
  assert.deepEqual(rows.slice(1), ["850,1850", "1452,1850", "1452,2151", "850,2151"].map((at) => `ROI_1,${at},"is,land"`));
  assert.equal(none.length, 1);
});

test("polygons come back, and those of another map do not", () => {
  const ring = [[0, 0], [1, 0], [0, 1]];
  const text = JSON.stringify([save.polygonOf(meta, [ring], "<b>")]);
  assert.deepEqual(save.regionsOf(meta, text), [{ name: "<b>", rings: [ring] }]);
  assert.deepEqual(save.regionsOf(meta, JSON.stringify({ map: "d1", polygon: ring })), [{ name: "", rings: [ring] }]);
  assert.throws(() => save.regionsOf(meta, '{"map": "other", "polygon": []}'), /another map/);
  assert.throws(() => save.regionsOf(meta, "{"), /not JSON/);
  assert.throws(() => save.regionsOf(meta, '{"map": "d1"}'), /not a polygon/);
});

"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./load.js");

const { contrast } = load("contrast.js");
const breath = () => Promise.resolve();

/** Facts with slides of group 0 and 1, and whose they are. */
function facts(groups, patients) {
  const columns = [{ name: "type", kind: "category", values: groups, names: ["A", "B"] }];
  if (patients) columns.push({ name: "patient", kind: "category", values: patients, names: patients.map((_, i) => `p${i}`) });
  return {
    slides: groups.map((_, i) => ({ name: `s${i}` })),
    annotations: { columns, patient: patients ? "patient" : null },
  };
}

/** Counts: every slide has 100 tiles, of which some are in cell 7, the rest in cell 9. */
function counts(inSeven) {
  const rows = inSeven.flatMap((n, s) => [[7, s, n], [9, s, 100 - n]]).filter(([, , n]) => n > 0);
  const column = (i) => Uint32Array.from(rows, (row) => row[i]);
  return { n: rows.length, cell: column(0), slide: column(1), tiles: column(2) };
}

test("cells in which slides differ are found, whatever the slides' sizes", async () => {
  const meta = facts([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
  const units = contrast.unitsOf(meta, meta.annotations.columns[0], 0, 1);
  assert.equal(units.what, "slides");
  const found = await contrast.tested(counts([50, 55, 60, 52, 58, 5, 3, 4, 6, 2]), units, breath);
  assert.deepEqual(found.map((one) => one.cell), [7, 9]);
  assert.ok(Math.abs(found[0].difference - (0.55 - 0.04)) < 1e-12);
  assert.ok(Math.abs(found[0].p - 2 / 252) < 0.004);
  assert.ok(found[0].q < 0.05);
});

test("one slide with many tiles finds nothing by itself", async () => {
  const meta = facts([0, 0, 0, 0, 1, 1, 1, 1]);
  const units = contrast.unitsOf(meta, meta.annotations.columns[0], 0, 1);
  const found = await contrast.tested(counts([90, 1, 2, 1, 1, 2, 1, 2]), units, breath);
  assert.ok(found[0].difference > 0.2);
  assert.ok(found.every((one) => one.q > 0.05));
});

test("too few slides are said, and nothing is tested", async () => {
  const meta = facts([0, 0, 0, 1, 1, 1]);
  const units = contrast.unitsOf(meta, meta.annotations.columns[0], 0, 1);
  assert.match(contrast.tooFew(units), /too few slides for a test: 3 and 3/);
  const found = await contrast.tested(counts([90, 91, 92, 1, 2, 3]), units, breath);
  assert.ok(found.every((one) => one.p === 1 && one.q === 1));
  assert.ok(found[0].difference > 0.8);
});

test("slides of a patient count once, and patients of both groups not at all", () => {
  const meta = facts([0, 0, 0, 1, 1, 0], [0, 0, 1, 2, 3, 3]);
  const units = contrast.unitsOf(meta, meta.annotations.columns[0], 0, 1);
  assert.deepEqual(units.names, ["p0", "p1", "p2"]);
  assert.deepEqual([...units.of], [0, 0, 1, 2, -1, -1]);
  assert.equal(units.mixed, 1);
  assert.equal(units.what, "patients");
});

test("orders keep the sizes of the groups, and are the same each time", () => {
  const group = Int8Array.from({ length: 40 }, (_, i) => i % 2);
  const [one, other] = [contrast.ordersOf({ group }), contrast.ordersOf({ group })];
  assert.deepEqual(one[5], other[5]);
  assert.ok(one.every((order) => order.reduce((s, g) => s + g, 0) === 20));
  assert.ok(new Set(one.map(String)).size > 9900);
});

test("without a difference few cells are found by chance", async () => {
  const random = contrast.random(5);
  const meta = facts(Array.from({ length: 12 }, (_, i) => i % 2));
  const units = contrast.unitsOf(meta, meta.annotations.columns[0], 0, 1);
  const rows = [];
  for (let s = 0; s < 12; s += 1) {
    for (let cell = 0; cell < 60; cell += 1) rows.push([cell, s, 1 + Math.floor(20 * random())]);
  }
  const column = (i) => Uint32Array.from(rows, (row) => row[i]);
  const found = await contrast.tested({ n: rows.length, cell: column(0), slide: column(1), tiles: column(2) }, units, breath);
  assert.ok(found.filter((one) => one.q < 0.05).length <= 2);
});

test("Benjamini and Hochberg's adjustment", () => {
  const q = contrast.adjusted([0.01, 0.04, 0.03, 0.5]);
  [0.04, 0.16 / 3, 0.16 / 3, 0.5].forEach((expected, i) => assert.ok(Math.abs(q[i] - expected) < 1e-12));
});

"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./load.js");

const { contrast } = load("geometry.js", "contrast.js");
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
function counts(inSeven, groups, slides = inSeven.map((_, s) => s)) {
  const rows = inSeven.flatMap((n, k) => [[7, slides[k], n, groups[k]], [9, slides[k], 100 - n, groups[k]]])
    .filter(([, , n]) => n > 0);
  return table(rows);
}

function table(rows) {
  const column = (i) => Uint32Array.from(rows, (row) => row[i]);
  return { n: rows.length, cell: column(0), slide: column(1), tiles: column(2), group: column(3) };
}

test("cells in which slides differ are found, whatever the slides' sizes", async () => {
  const groups = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1];
  const rows = counts([50, 55, 60, 52, 58, 5, 3, 4, 6, 2], groups);
  const units = contrast.unitsOf(facts(groups), rows);
  assert.equal(units.what, "slides");
  const found = await contrast.tested(rows, units, breath);
  assert.deepEqual(found.map((one) => one.cell), [7, 9]);
  assert.ok(Math.abs(found[0].difference - (0.55 - 0.04)) < 1e-12);
  assert.ok(Math.abs(found[0].p - 2 / 252) < 0.004);
  assert.ok(found[0].q < 0.05);
});

test("one slide with many tiles finds nothing by itself", async () => {
  const groups = [0, 0, 0, 0, 1, 1, 1, 1];
  const rows = counts([90, 1, 2, 1, 1, 2, 1, 2], groups);
  const found = await contrast.tested(rows, contrast.unitsOf(facts(groups), rows), breath);
  assert.ok(found[0].difference > 0.2);
  assert.ok(found.every((one) => one.q > 0.05));
});

test("too few slides are said, and nothing is tested", async () => {
  const groups = [0, 0, 0, 1, 1, 1];
  const rows = counts([90, 91, 92, 1, 2, 3], groups);
  const units = contrast.unitsOf(facts(groups), rows);
  assert.match(contrast.tooFew(units), /too few slides for a test: 3 and 3/);
  const found = await contrast.tested(rows, units, breath);
  assert.ok(found.every((one) => one.p === 1 && one.q === 1));
  assert.ok(found[0].difference > 0.8);
});

test("slides of a patient count once, and a patient with tiles of both groups is compared with itself", () => {
  const groups = [0, 0, 0, 1, 1, 0, 7];
  const meta = facts(groups, [0, 0, 1, 2, 3, 3, 4]);
  const units = contrast.unitsOf(meta, counts([1, 2, 3, 4, 5, 6, 7], groups));
  assert.equal(units.what, "patients");
  assert.deepEqual([...units.group], [0, 0, 1, 1, 0]);
  assert.deepEqual(units.unit, [0, 1, 2, 3, 3]);
  assert.deepEqual([units.pairs, units.singles], [[[4, 3]], [0, 1, 2]]);
  assert.deepEqual(contrast.sizesOf(units), [3, 2]);
  assert.deepEqual([...units.of], [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1, -1]);
});

test("labels of tiles are compared within each slide, however many tiles it has", async () => {
  const [slides, groups] = [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], Array.from({ length: 14 }, (_, i) => i % 2)];
  const meta = facts(Array(7).fill(0));
  const rows = counts([60, 50, 22, 12, 90, 80, 35, 25, 12, 2, 70, 60, 40, 30], groups, slides);
  const units = contrast.unitsOf(meta, rows);
  assert.equal(units.pairs.length, 7);
  assert.equal(contrast.tooFew(units), "");
  const found = await contrast.tested(rows, units, breath);
  assert.ok(Math.abs(found[0].difference - 0.1) < 1e-12);
  assert.ok(Math.abs(found[0].p - 2 / 128) < 0.005);
  // Five slides with both cannot tell: 2 / 32 is more than 0.05.
  const five = counts([60, 50, 22, 12, 90, 80, 35, 25, 12, 2], groups, slides);
  assert.match(contrast.tooFew(contrast.unitsOf(meta, five)), /5 and 5, 5 of them in both groups/);
});

test("orders keep the sizes of the groups and of pairs, and are the same each time", () => {
  const group = Int8Array.from({ length: 40 }, (_, i) => i % 2);
  const units = { group, pairs: [[0, 1], [2, 3]], singles: Array.from({ length: 36 }, (_, i) => i + 4) };
  const [one, other] = [contrast.ordersOf(units), contrast.ordersOf(units)];
  assert.deepEqual(one[5], other[5]);
  assert.ok(one.every((order) => order.reduce((s, g) => s + g, 0) === 20 && order[0] !== order[1]));
  assert.ok(new Set(one.map(String)).size > 9900);
  assert.ok(one.some((order) => order[0] === 1) && one.some((order) => order[0] === 0));
});

test("without a difference few cells are found by chance", async () => {
  const random = contrast.random(5);
  const rows = [];
  for (let s = 0; s < 12; s += 1) {
    for (let cell = 0; cell < 60; cell += 1) rows.push([cell, s, 1 + Math.floor(20 * random()), s % 2]);
  }
  const meta = facts(Array.from({ length: 12 }, (_, i) => i % 2));
  const found = await contrast.tested(table(rows), contrast.unitsOf(meta, table(rows)), breath);
  assert.ok(found.filter((one) => one.q < 0.05).length <= 2);
});

test("Benjamini and Hochberg's adjustment", () => {
  const q = contrast.adjusted([0.01, 0.04, 0.03, 0.5]);
  [0.04, 0.16 / 3, 0.16 / 3, 0.5].forEach((expected, i) => assert.ok(Math.abs(q[i] - expected) < 1e-12));
});

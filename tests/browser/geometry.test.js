"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const { load } = require("./load.js");

const { geometry, camera, address } = load("geometry.js", "camera.js", "address.js");
const frame = { x0: -2, y0: 3, side: 4 };

test("codes interleave the bits, the column's in the even places", () => {
  assert.equal(geometry.morton(0, 1), 1);
  assert.equal(geometry.morton(1, 0), 2);
  assert.equal(geometry.morton(3, 5), 0b011011);
  assert.equal(geometry.morton(65535, 65535), 4294967295);
  assert.equal(geometry.morton(65535, 0), 2863311530);
});

test("points on the upper edges are in the last cell, row 0 at the bottom", () => {
  assert.deepEqual(geometry.cellOf(frame, -2, 3, 0), { row: 0, col: 0 });
  assert.deepEqual(geometry.cellOf(frame, 2, 7, 0), { row: 7, col: 7 });
  assert.deepEqual(geometry.cellOf(frame, 0, 3.5, 1), { row: 2, col: 8 });
});

test("the first index that is not below", () => {
  assert.equal(geometry.lowerBound([1, 3, 3, 9], 3), 1);
  assert.equal(geometry.lowerBound([1, 3], 10), 2);
  assert.equal(geometry.lowerBound([], 1), 0);
});

test("even-odd over all rings: holes and crossings are outside", () => {
  const square = [[0, 0], [4, 0], [4, 4], [0, 4]];
  const hole = [[1, 1], [3, 1], [3, 3], [1, 3]];
  const edges = geometry.edgesOf([square, hole]);
  assert.equal(edges.length, 4 * 8);
  assert.equal(geometry.inside(edges, 0.5, 0.5), true);
  assert.equal(geometry.inside(edges, 2, 2), false);
  assert.equal(geometry.inside(edges, 5, 2), false);
  // On the left and lower edge is inside, on the right and upper is not.
  assert.equal(geometry.inside(geometry.edgesOf([square]), 0, 0), true);
  assert.equal(geometry.inside(geometry.edgesOf([square]), 4, 4), false);
  const star = geometry.edgesOf([[[0, 3], [2, -3], [-3, 1], [3, 1], [-2, -3]]]);
  assert.equal(geometry.inside(star, 0, 0), false);
  assert.equal(geometry.inside(star, 0, 2), true);
});

test("a partition of the plane has each point once", () => {
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const cuts = [-9, -1, 0.25, 0.7, 9];
  for (let k = 0; k < 300; k += 1) {
    const [x, y] = [k % 3 ? random() * 2 - 1 : 0.25, random()];
    let times = 0;
    for (let i = 0; i + 1 < cuts.length; i += 1) {
      const [a, b] = [cuts[i], cuts[i + 1]];
      times += geometry.inside(geometry.edgesOf([[[a, -9], [b, -9], [b, 9], [a, 9]]]), x, y);
    }
    assert.equal(times, 1);
  }
});

test("rings or one ring, and what is none of them", () => {
  const ring = [[0, 0], [1, 0], [0, 1]];
  assert.deepEqual(geometry.ringsOf(ring), [ring]);
  assert.deepEqual(geometry.ringsOf([ring, ring]), [ring, ring]);
  for (const wrong of [null, [], [[]], "x", [[0, 0], [1, 1]], [[0, 0], [1, NaN], [2, 2]], [[ring]], 3]) {
    assert.throws(() => geometry.ringsOf(wrong), /not a polygon/);
  }
  const [left, bottom, right, top] = geometry.boxOf([ring]);
  assert.ok(left < 0 && left > -1e-6 && right > 1 && bottom < 0 && top > 1);
});

test("a place stays under the pointer while one zooms", () => {
  const view = { x: 0.5, y: 0.5, scale: 800, width: 1000, height: 700, box: [0, 0, 1, 1] };
  const before = camera.toShare(view, 300, 200);
  const zoomed = camera.zoomed(view, 3, 300, 200, 1e6);
  const after = camera.toShare(zoomed, 300, 200);
  assert.ok(Math.abs(before[0] - after[0]) < 1e-12 && Math.abs(before[1] - after[1]) < 1e-12);
  assert.deepEqual(camera.toScreen(view, ...before).map(Math.round), [300, 200]);
  assert.equal(camera.zoomed(view, 1e9, 0, 0, 5000).scale, 5000);
  assert.equal(camera.moved(view, 1e9, 0, 5000).x, 0);
});

test("the level shows cells at half of their size to their size", () => {
  const at = (scale) => camera.levelOf({ x: 0, y: 0, scale, width: 1, height: 1 }, 96, 5);
  assert.equal(at(8 * 48), 0);
  assert.equal(at(8 * 95), 0);
  assert.equal(at(16 * 48), 1);
  assert.equal(at(1), 0);
  assert.equal(at(1e9), 5);
});

test("an address is read as it was written, and what is wrong in it is left out", () => {
  const told = {
    map: "a/b", at: [0.25, 0.125, 512], by: "mean:0", show: ["points"], cell: [3, 14, 15],
    labels: [0, 2], slides: [], select: [[[0.1, -2.5e-7], [1, 0], [0, 1e21]]],
  };
  assert.deepEqual(address.read(`#${address.written(told)}`), told);
  const wrong = address.read("#at=1,x,3&cell=1,2&by=%00&labels=a&select=1,2;3,4,5,6&__proto__=1");
  assert.equal(wrong.at, null);
  assert.equal(wrong.cell, null);
  assert.equal(wrong.labels, null);
  assert.deepEqual(wrong.select, []);
});

test("a selection that is too long for an address is left out of it", () => {
  const ring = (n) => [Array.from({ length: n }, (_, i) => [i + 0.123456, -i - 0.123456])];
  const told = { map: "m", at: null, by: "", show: null, cell: null, labels: null, slides: null };
  for (const [n, fits] of [[100, true], [2000, false]]) {
    assert.equal(address.fits(ring(n)), fits);
    assert.equal(address.read(address.written({ ...told, select: ring(n) })).select.length, fits ? 1 : 0);
  }
});

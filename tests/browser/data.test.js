"use strict";
const assert = require("node:assert/strict");
const test = require("node:test");
const zlib = require("node:zlib");
const { load } = require("./load.js");

const { data } = load("geometry.js", "data.js");

/** A block as the writer writes it. */
function written(columns) {
  const parts = columns.map(([, , values]) => {
    const bytes = Buffer.from(values.buffer);
    const [n, width] = [values.length, values.BYTES_PER_ELEMENT];
    const shuffled = Buffer.alloc(bytes.length);
    for (let i = 0; i < n; i += 1) {
      for (let b = 0; b < width; b += 1) shuffled[b * n + i] = bytes[i * width + b];
    }
    return shuffled;
  });
  return zlib.gzipSync(Buffer.concat(parts)).toString("base64");
}

test("columns come back bit for bit, and one called n does not hide the length", async () => {
  const columns = [
    ["n", "u4", Uint32Array.of(5, 4294967295, 70000)],
    ["label", "u1", Uint8Array.of(0, 255, 7)],
    ["width", "u2", Uint16Array.of(1, 65535, 258)],
    ["loc_x", "i4", Int32Array.of(-2147483648, -1, 258)],
    ["x", "f4", Float32Array.of(0.1, NaN, -3e-20)],
  ];
  const about = { n: 3, columns: columns.map(([name, type]) => [name, type]) };
  const block = await data.decoded(about, written(columns));
  assert.equal(block.n, 3);
  for (const [name, , values] of columns) {
    assert.deepEqual(block[name === "n" ? "tiles" : name], values);
  }
  const none = await data.decoded({ n: 0, columns: [["x", "f4"]] }, written([["x", "f4", new Float32Array()]]));
  assert.equal(none.x.length, 0);
});

test("what is damaged is refused", async () => {
  await assert.rejects(data.decoded({ n: 1, columns: [["x", "f4"]] }, "AAAA"));
});

test("bits of a bitmap", () => {
  const bits = data.bytesOf(Buffer.from([0b00000010, 0b10000000]).toString("base64"));
  assert.deepEqual([0, 1, 8, 15].map((i) => data.bit(bits, i)), [0, 1, 0, 1]);
});

test("a bounded store keeps what was used last", () => {
  const recent = new data.Recent(2);
  recent.set("a", 1);
  recent.set("b", 2);
  assert.equal(recent.get("a"), 1);
  recent.set("c", 3);
  assert.deepEqual([recent.get("a"), recent.get("b"), recent.get("c")], [1, undefined, 3]);
});

test("a picture that failed is asked for once more, and not again", async () => {
  const asked = [];
  globalThis.Image = class { set src(path) { asked.push(path); setImmediate(() => this.onerror()); } };
  const { setTimeout: kept } = globalThis;
  globalThis.setTimeout = (act) => setImmediate(act);
  let came = 0;
  const store = new data.Store("", () => (came += 1));
  store.holds(600, 600);
  for (let i = 0; i < 10; i += 1) {
    assert.equal(store.picture("a.jpg"), null);
    await new Promise((done) => setImmediate(done));
  }
  globalThis.setTimeout = kept;
  assert.deepEqual(asked, ["a.jpg", "a.jpg"]);
  assert.equal(came, 1);
});

test("more pictures are kept for a larger view", () => {
  const store = new data.Store("", () => {});
  store.holds(980, 830);
  const small = store.pictures.most;
  store.holds(3840, 2160);
  assert.ok(small >= 2 * 6 * 5 && store.pictures.most >= 2 * 25 * 14);
});

"use strict";
// Two maps of a run in one page: the selection comes along by its tiles.
const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const test = require("node:test");
const { open, until } = require("./page_in_node.js");

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "page-"));
test.after(() => fs.rmSync(folder, { recursive: true }));

test("the other map shows the tiles that were selected", async () => {
  for (const name of ["umap", "other"]) {
    execFileSync(process.env.PYTHON ?? "python3", [path.join(__dirname, "made_folder.py"), path.join(folder, name)]);
    const meta = path.join(folder, name, "data", "meta.js");
    const text = fs.readFileSync(meta, "utf8").replace('"version": 1', '"version": 1, "maps": ["umap", "other"]');
    fs.writeFileSync(meta, text.replace('"name": "umap"', `"name": "${name}"`));
  }
  const { raylatent, elements, read } = await open(path.join(folder, "umap"));
  const told = await raylatent.select([[-99, -99], [-2, -99], [-2, 99], [-99, 99]]);
  assert.ok(told.n > 100);
  elements.get("maps").value = "other";
  elements.get("maps").fire("change");
  await until(() => raylatent.now.only !== null);
  assert.equal(raylatent.now.meta.map.name, "other");
  assert.ok(read.includes("../other/data/meta.js"));
  assert.equal(raylatent.now.members.n, told.n);
  assert.deepEqual(raylatent.now.rings, []);
  const block = await raylatent.now.store.load("points/0");
  const colors = raylatent.cells.colors(block, 0, false);
  const grey = colors.filter((color) => color === 0xffd8d8d8).length;
  const outside = block.x.filter((x) => x >= -2).length;
  assert.equal(grey, outside);
  raylatent.selection.clear();
  assert.equal(raylatent.now.only, null);
});

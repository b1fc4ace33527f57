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
    const text = fs.readFileSync(meta, "utf8").replace('"name": "umap"', `"name": "${name}"`);
    const age = text.replace('"name": "age"', `"name": "age on ${name}"`).replace("d1g357", `digest of ${name}`);
    fs.writeFileSync(meta, age.replace('"version": 1', '"version": 1, "maps": [{"name": "umap"}, {"name": "other"}, {"name": "gone"}]'));
  }
  const { raylatent, elements, read, acts } = await open(path.join(folder, "umap"));
  const told = await raylatent.select([[-99, -99], [-2, -99], [-2, 99], [-99, 99]]);
  assert.ok(told.n > 100);
  const leaves = () => {
    let asks = false;
    acts.beforeunload({ preventDefault: () => { asks = true; } });
    return !asks;
  };
  assert.ok(leaves());
  elements.get("name").value = "kept";
  elements.get("save-name").fire("click");
  const change = (name) => {
    elements.get("maps").value = name;
    elements.get("maps").fire("change");
  };
  change("other");
  await until(() => raylatent.now.only !== null);
  await until(() => elements.get("show-points").checked);
  assert.equal(raylatent.now.meta.map.name, "other");
  assert.ok(read.includes("../other/data/meta.js"));
  assert.equal(raylatent.now.members.n, told.n);
  assert.deepEqual(raylatent.now.rings, []);
  const block = await raylatent.now.store.load("points/0");
  const colors = raylatent.cells.colors(block, 0, false);
  const grey = colors.filter((color) => color === 0xffd8d8d8).length;
  const outside = block.x.filter((x) => x >= -2).length;
  assert.equal(grey, outside);
  await until(() => raylatent.address.read(globalThis.location.hash).map === "other");
  raylatent.selection.clear();
  assert.equal(raylatent.now.only, null);

  // What was named is there again on its own map, and the choices of color are those of each map.
  const choices = () => elements.get("by").textContent;
  assert.equal(elements.get("regions").textContent, "");
  assert.match(choices(), /age on other/);
  change("umap");
  await until(() => raylatent.now.meta.map.name === "umap");
  assert.deepEqual(raylatent.now.regions.map((one) => one.name), ["kept"]);
  assert.match(choices(), /age on umap.*named selections/);
  assert.equal(leaves(), false);
  elements.get("regions").find((e) => e.attributes.id === "save-regions")[0].fire("click");
  assert.ok(leaves());
  change("other");
  await until(() => raylatent.now.meta.map.name === "other");

  // A map whose folder is not here is said, and this one stays.
  elements.get("maps").value = "gone";
  elements.get("maps").fire("change");
  await until(() => /gone.data.meta.js could not be read/.test(elements.get("status").textContent));
  assert.equal(raylatent.now.meta.map.name, "other");
  assert.equal(elements.get("maps").value, "other");
  assert.equal((await raylatent.select([[-99, -99], [-2, -99], [-2, 99], [-99, 99]])).n, told.n);
});

test("an address brings back the other map, and none that this one does not know", async () => {
  // What the page of before draws later must not meet this one.
  const settled = () => new Promise((done) => setTimeout(done, 400));
  await settled();
  const { raylatent } = await open(path.join(folder, "umap"), "#map=other&by=slide");
  assert.equal(raylatent.now.meta.map.name, "other");
  assert.equal(raylatent.now.by, "slide");
  await settled();
  const other = await open(path.join(folder, "umap"), "#map=..");
  assert.equal(other.raylatent.now.meta.map.name, "umap");
});

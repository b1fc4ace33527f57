"use strict";
// A folder with a sample of the points: from a disk, and as `raylatent serve` shows it.
const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const test = require("node:test");
const { open, until } = require("./page_in_node.js");

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "page-"));
test.after(() => fs.rmSync(folder, { recursive: true }));
const where = path.join(folder, "umap");
const made = path.join(__dirname, "made_folder.py");
execFileSync(process.env.PYTHON ?? "python3", [made, where, "sample"]);
const everything = [[-99, -99], [99, -99], [99, 99], [-99, 99]];

test("counts are about, and exports are refused with the polygon instead", async () => {
  const { raylatent, elements, downloads } = await open(where, "#by=novelty&show=points&labels=1");
  assert.equal(raylatent.now.by, "novelty");
  assert.equal(raylatent.now.showPictures, false);
  assert.deepEqual([...raylatent.now.labels], [1]);
  const told = await raylatent.select(everything);
  assert.deepEqual(told, { n: null, exact: false, slides: null, rows: [] });
  assert.match(elements.get("selected").textContent, /About 3,000 tiles.*raylatent select/);
  await assert.rejects(raylatent.controls.saved("csv"), /save the polygon file/);
  elements.get("save-polygon").fire("click");
  await until(() => downloads.length === 1);
  assert.deepEqual(JSON.parse(await downloads[0].blob.text()).rings, [everything]);
});

test("what the filter leaves is not known where the points are a sample, and that is said", async () => {
  const { raylatent, elements } = await open(where);
  const { cells, draw, now } = raylatent;
  const last = cells.lastOfSlides();
  now.meta.levels.forEach((level, l) => { if (l > 1) delete level.slides; });
  for (const [level, filters, known] of [
    [1, { labels: new Set([1]), slides: null }, true], [1, { labels: null, slides: new Set([1]) }, true],
    [1, { labels: new Set([1]), slides: new Set([1]) }, false], [2, { labels: null, slides: new Set([1]) }, false],
  ]) {
    const block = await now.store.load(`cells/${level}/0`);
    await now.store.load(`slides/${level}`);
    Object.assign(now, { showPoints: false, showPictures: false, view: { ...now.view, scale: 80 * 2 ** level } });
    cells.filter(filters);
    draw.frame(elements.get("map"));
    assert.equal(draw.cellLevel(), level);
    assert.equal(cells.left(level, block) !== null, known);
    raylatent.page.redraw();
    await until(() => /filter is not applied here.*sample/.test(elements.get("where").textContent) !== known);
  }
  assert.ok(last > 1);
  await new Promise((done) => setTimeout(done, 400)); // what is drawn later must not meet the next page
});

test("a server tells the members, the tiles of a cell, and what was named", async () => {
  const asked = [];
  let many = false;
  globalThis.raylatentServer = {};
  globalThis.fetch = async (url, about) => {
    asked.push([url, about && JSON.parse(about.body)]);
    if (url === "regions.json") {
      return new Response(JSON.stringify([{ name: "kept", map: "d1g357", rings: [everything] }]));
    }
    const slide = "000 a'b<script>\"&=%20 ü";
    const rows = many ? null : [[slide, 4, 33, 44], [slide, 7, null, null]];
    return new Response(JSON.stringify({ n: 2, slides: 1, rows }));
  };
  const { raylatent, elements } = await open(where);
  await until(() => raylatent.now.regions[0]?.name === "kept");
  const told = await raylatent.select([everything]);
  assert.deepEqual([told.n, told.exact, told.slides, told.rows.length], [2, true, 1, 2]);
  assert.deepEqual(asked.at(-1), ["members", { map: "d1g357", rings: [everything] }]);
  const block = await raylatent.now.store.load("cells/1/0");
  raylatent.page.open({ level: 1, row: block.row[0], col: block.col[0] });
  await until(() => !elements.get("panel").hidden);
  const body = elements.get("panel-body");
  body.find((e) => e.tag === "button" && /^List/.test(e.textContent))[0].fire("click");
  await until(() => body.find((e) => e.attributes.class === "tiles")[0].childElementCount === 2);
  assert.deepEqual(asked.at(-1)[1].cell, [1, block.row[0], block.col[0]]);
  body.find((e) => e.tag === "button" && /, tile 4$/.test(e.textContent))[0].fire("click");
  await until(() => /33 px/.test(body.textContent) && /44 px/.test(body.textContent));
  assert.ok(body.find((e) => e.tag === "button" && e.textContent === "Open the slide here").length > 0);
  many = true;
  assert.equal((await raylatent.select([everything])).rows, null);
  raylatent.page.open({ level: 1, row: block.row[1], col: block.col[1] });
  const listing = () => body.find((e) => e.tag === "button" && /^List the tiles/.test(e.textContent))[0];
  await until(() => listing() && elements.get("panel").dataset.col === block.col[1]);
  listing().fire("click");
  await until(() => /too many tiles to list: use/.test(elements.get("status").textContent));
});

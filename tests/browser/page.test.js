"use strict";
// The whole page, run in Node on a folder with known tiles.
const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const test = require("node:test");
const { open, until } = require("./page_in_node.js");

const python = process.env.PYTHON ?? "python3";
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "page-"));
test.after(() => fs.rmSync(folder, { recursive: true }));

test("the page opens, shows cells, selects, names, saves and compares", async () => {
  const where = path.join(folder, "umap");
  execFileSync(python, [path.join(__dirname, "made_folder.py"), where]);
  const { raylatent, elements, downloads, calls, read, body } = await open(where);
  const status = elements.get("status");
  assert.equal(body.dataset.ready, "1", status.textContent);
  const { meta, store } = raylatent.now;

  // It draws pictures and frames.
  await until(() => (calls.drawImage ?? []).length > 0 && (calls.strokeRect ?? []).length > 0);
  assert.deepEqual(read.filter((name) => /^\w+:|^\//.test(name)), []);

  // Selecting by program gives every tile that is inside, in order.
  const { x0, y0, side } = raylatent.now.frame;
  const everything = [[x0 - 1, y0 - 1], [x0 + side + 1, y0 - 1], [x0 + side + 1, y0 + side + 1], [x0 - 1, y0 + side + 1]];
  const all = await raylatent.select(everything);
  assert.equal(all.n, 3000);
  assert.equal(all.exact, true);
  assert.equal(all.slides, 10);
  const order = all.rows.map(([slide, tile]) => [slide, tile]);
  order.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1]));
  assert.deepEqual(all.rows, order);
  const middle = x0 + side / 2;
  const left = await raylatent.select([[[x0 - 1, y0 - 1], [middle, y0 - 1], [middle, y0 + side + 1], [x0 - 1, y0 + side + 1]]]);
  const right = await raylatent.select([[middle, y0 - 1], [x0 + side + 1, y0 - 1], [x0 + side + 1, y0 + side + 1], [middle, y0 + side + 1]]);
  assert.equal(left.n + right.n, 3000);
  assert.ok(left.n > 500 && right.n > 500);
  assert.match(elements.get("selected").textContent, new RegExp(`${right.n.toLocaleString("en")} tiles of \\d+ slides`));

  // A click opens the cell; its list has every tile of it.
  const level = 2;
  const block = await store.load(`cells/${level}/0`);
  const i = block.tiles.indexOf(Math.max(...block.tiles));
  raylatent.page.open({ level, row: block.row[i], col: block.col[i] });
  const panel = elements.get("panel");
  await until(() => !panel.hidden);
  assert.equal(panel.dataset.slide, meta.slides[block.slide[i]].name);
  assert.equal(panel.dataset.n, block.tiles[i]);
  const shown = elements.get("panel-body");
  assert.match(shown.textContent, /not stored at its own size.*raylatent serve/);
  assert.match(shown.textContent, new RegExp(`x${block.loc_x[i]} px \\(`));
  const more = shown.find((e) => e.tag === "button" && /^List/.test(e.textContent))[0];
  let listed = 0;
  while (listed < block.tiles[i]) {
    more.fire("click");
    const before = listed;
    await until(() => shown.find((e) => e.attributes.class === "tiles")[0].childElementCount > before);
    listed = shown.find((e) => e.attributes.class === "tiles")[0].childElementCount;
    assert.ok(listed === block.tiles[i] || listed % 50 === 0);
  }
  assert.equal(more.hidden, true);
  const first = shown.find((e) => e.dataset.slide !== undefined)[0];
  assert.deepEqual([first.dataset.slide, Number(first.dataset.tile)], [meta.slides[block.slide[i]].name, block.tile[i]]);
  first.fire("click");
  await until(() => raylatent.now.marked !== null);
  await until(() => status.textContent.startsWith(`Tile ${first.dataset.tile} of slide`));
  assert.ok(shown.find((e) => e.scrolledTo).length === 1);

  // A tile that is stored is shown at its own size.
  const coarse = await store.load("cells/0/0");
  const drawn = (calls.drawImage ?? []).length;
  raylatent.page.open({ level: 0, row: coarse.row[5], col: coarse.col[5] });
  await until(() => Number(panel.dataset.level) === 0);
  const cuts = calls.drawImage.slice(drawn).filter((args) => args.length === 9 && args[8] === 120);
  assert.deepEqual(cuts[0].slice(1), [192, 192, 120, 120, 0, 0, 120, 120]);
  assert.equal(/not stored/.test(shown.textContent), false);

  // Each way to color and both filters draw without a complaint.
  for (const [key] of raylatent.color.keysOf(meta, true)) {
    for (const pictures of [true, false]) {
      Object.assign(raylatent.now, { by: key, showPictures: pictures, showPoints: !pictures });
      raylatent.draw.frame(elements.get("map"), elements.get("overview"));
      raylatent.controls.legend();
    }
  }
  raylatent.cells.filter({ labels: new Set([1]), slides: new Set([1, 2]) });
  raylatent.draw.frame(elements.get("map"), elements.get("overview"));
  const kept = raylatent.cells.left(level, block);
  assert.ok(kept.some((n) => n > 0) && kept.some((n) => n === 0));
  // Where too many points are in view nothing is filtered, and that is said.
  const { blocks } = meta.points;
  meta.points.blocks = [{ ...blocks[0], n: 2_000_001 }];
  assert.equal(raylatent.cells.left(level, block), null);
  raylatent.page.redraw();
  await until(() => /The filter is not applied here: zoom in\./.test(elements.get("where").textContent));
  meta.points.blocks = blocks;
  elements.get("filter-none").fire("click");
  assert.equal(raylatent.now.slides, null);
  // Tiles without a label are a choice of their own.
  const some = { n: 2, tiles: [5, 3], count_0: [2, 3], count_1: [1, 0] };
  for (const [labels, expected] of [[[255], [2, 0]], [[0, 255], [4, 3]], [[0], [2, 3]]]) {
    raylatent.cells.filter({ labels: new Set(labels) });
    assert.deepEqual([...raylatent.cells.left(level, some)], expected);
  }
  assert.equal(/no label/.test(elements.get("filter-labels").textContent), false);
  meta.labels.counts[0] -= 1;
  elements.get("filter-none").fire("click");
  assert.match(elements.get("filter-labels").textContent, /\(no label\)/);

  // Files.
  elements.get("name").value = "island";
  elements.get("save-name").fire("click");
  assert.equal(raylatent.now.regions[0].name, "island");
  assert.match(status.textContent, /kept until the page is closed: save regions\.json/);
  for (const id of ["save-csv", "save-polygon", "save-geojson"]) elements.get(id).fire("click");
  const slides = new Set(right.rows.map(([name]) => name)).size;
  await until(() => downloads.length === 2 + slides);
  const csv = (await downloads.find((d) => d.name === "selection.csv").blob.text()).trim().split("\r\n");
  assert.equal(csv.length, right.n + 1);
  const polygon = JSON.parse(await downloads.find((d) => d.name === "polygon.json").blob.text());
  assert.equal(polygon.map, "d1g357");
  const again = await raylatent.select(polygon.rings);
  assert.deepEqual(again.rows, right.rows);
  // Only tests and the console are given rows: a lasso makes none.
  assert.equal((await raylatent.selection.choose(polygon.rings, false)).rows, undefined);

  // Of a file with many areas those without a name are not kept, and that is said.
  const area = { map: "d1g357", rings: polygon.rings };
  elements.get("open-file").files = [{ text: async () => JSON.stringify([area, { ...area, name: "b" }, area]) }];
  elements.get("open-file").fire("change");
  await until(() => status.textContent === "1 named selection of 3 areas were read.");
  assert.deepEqual(raylatent.now.regions.map((one) => one.name), ["island", "b"]);

  // A tile without a place in its slide is left out of what has places, and that is said.
  const { members } = raylatent.now;
  raylatent.now.members = { ...members, n: 1, loc_x: Int32Array.of(-2147483648), loc_y: Int32Array.of(5) };
  await raylatent.controls.saved("geojson");
  assert.match(status.textContent, /Saved: 1 file\. 1 tile without a place in the slide: left out\./);
  raylatent.now.members = members;

  // The keyboard alone selects and opens.
  const map = elements.get("map");
  const press = (key, about) => map.fire("keydown", { key, ...about });
  press("0");
  press("b");
  press(" ");
  for (let k = 0; k < 3; k += 1) { press("ArrowRight"); press("ArrowUp"); }
  press(" ");
  await until(() => raylatent.now.rings.length === 1 && raylatent.now.members !== null);
  assert.equal(raylatent.now.mode, "move");
  press("Enter");
  press("Escape");

  // A contrast of five slides with five.
  await raylatent.compare.compare();
  assert.match(elements.get("contrast-told").textContent, /\d+ of \d+ cells differ \(q < 0\.05\), tested by slides: 5 LUAD, 5 LUSC <b>&/);
  assert.ok(raylatent.now.contrast.cells.some((one) => one.q < 0.05));

  // The address tells the view.
  await until(() => /by=/.test(globalThis.location.hash));
  const told = raylatent.address.read(globalThis.location.hash);
  assert.equal(told.at.length, 3);
  assert.equal(status.textContent.includes("could not be read"), false);
});

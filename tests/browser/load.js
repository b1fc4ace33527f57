"use strict";
// Loads the page's scripts into Node as a browser does: one after another, into one scope.
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const PAGE = path.join(__dirname, "../../raylatent/explorer/page");

/** The page's scripts in the order of index.html. */
function scripts() {
  const html = fs.readFileSync(path.join(PAGE, "index.html"), "utf8");
  return [...html.matchAll(/<script src="([^"]+)">/g)].map((found) => found[1]);
}

/** Runs scripts of the page; returns its name space. @param {...string} names */
function load(...names) {
  for (const name of names) {
    const file = path.resolve(PAGE, name);
    vm.runInThisContext(fs.readFileSync(file, "utf8"), { filename: file });
  }
  return globalThis.raylatent;
}

module.exports = { PAGE, load, scripts };

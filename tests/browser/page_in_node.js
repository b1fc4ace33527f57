"use strict";
// As much of a browser as the page needs to run in Node: elements that remember, scripts
// and pictures from a folder, a canvas that counts. What is seen is tested in browsers.
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");
const { load, scripts } = require("./load.js");

class Element {
  constructor(tag) {
    this.tag = tag;
    this.children = [];
    this.attributes = {};
    this.dataset = {};
    this.style = {};
    this.listeners = {};
    this.hidden = false;
    this.checked = false;
    this.value = "";
    this.files = [];
    this.parent = null;
  }
  get options() { return this.children; }
  get selectedOptions() { return this.children.filter((c) => String(c.attributes.value) === String(this.value)); }
  get childElementCount() { return this.children.length; }
  get textContent() {
    return this.children.map((c) => (typeof c === "string" ? c : c.textContent)).join("");
  }
  set textContent(text) { this.children = [String(text)]; }
  append(...nodes) {
    for (const node of nodes) {
      if (node === undefined) throw new Error("undefined was appended");
      if (node instanceof Element) node.parent = this;
      this.children.push(node);
      if (node.tag === "option" && !this.value) this.value = String(node.attributes.value);
      if (node.tag === "script") run(node);
    }
  }
  prepend(...nodes) { this.children.unshift(...nodes); }
  replaceChildren(...nodes) { this.children = []; this.value = ""; this.append(...nodes); }
  remove() {
    if (this.parent) this.parent.children = this.parent.children.filter((c) => c !== this);
  }
  setAttribute(name, value) {
    this.attributes[name] = value;
    if (name.startsWith("data-")) this.dataset[name.slice(5)] = value;
    if (name === "id") elements.set(value, this);
    if (name === "type" || name === "value") this[name] = value;
  }
  getAttribute(name) { return this.attributes[name] ?? null; }
  addEventListener(type, listener) { (this.listeners[type] ??= []).push(listener); }
  fire(type, about = {}) {
    const event = { type, preventDefault() {}, shiftKey: false, target: this, ...about };
    for (const listener of this.listeners[type] ?? []) listener(event);
  }
  click() {
    if (this.tag === "a") downloads.push({ name: this.download, blob: blobs.get(this.href) });
    if (this.attributes.type === "checkbox") {
      this.checked = !this.checked;
      this.fire("change");
    }
    this.fire("click");
  }
  focus() { globalThis.document.activeElement = this; }
  setPointerCapture() {}
  scrollIntoView() { this.scrolledTo = true; }
  getBoundingClientRect() { return { left: 0, top: 0, width: 900, height: 700 }; }
  getContext() { return context; }
  contains(other) { return other === this || this.find((e) => e === other).length > 0; }
  querySelectorAll(tag) { return this.find((e) => e.tag === tag); }
  find(test) {
    const below = this.children.filter((c) => c instanceof Element);
    return [...below.filter(test), ...below.flatMap((c) => c.find(test))];
  }
}

const calls = {};
const context = new Proxy({}, {
  get: (kept, name) => {
    if (name in kept) return kept[name];
    if (name === "createImageData") {
      return (w, h) => ({ data: new Uint8ClampedArray(4 * w * h), width: w, height: h });
    }
    return (...args) => {
      (calls[name] ??= []).push(args);
      if (args.flat().some((a) => typeof a === "number" && Number.isNaN(a))) {
        throw new Error(`${String(name)} was called with NaN`);
      }
    };
  },
});
// What a page does a minute later must not keep a test from its end.
const later = globalThis.setTimeout;
globalThis.setTimeout = (f, ms, ...args) => {
  const timer = later(f, ms, ...args);
  if (ms > 1000) timer.unref();
  return timer;
};
const elements = new Map();
const downloads = [];
const blobs = new Map();
const read = [];
let folder = "";

/** @param {Element} script */
function run(script) {
  setImmediate(() => {
    const file = path.join(folder, script.src);
    read.push(script.src);
    if (!fs.existsSync(file)) return script.onerror();
    globalThis.document.currentScript = script;
    vm.runInThisContext(fs.readFileSync(file, "utf8"), { filename: file });
    return script.onload();
  });
}

class Picture extends Element {
  constructor() { super("img"); this.complete = false; this.naturalWidth = 0; }
  decode() {
    return new Promise((done, fail) => Object.assign(this, { onload: done, onerror: () => fail(new Error("none")) }));
  }
  set src(name) {
    setImmediate(() => {
      this.complete = true;
      read.push(name);
      if (!fs.existsSync(path.join(folder, name))) return this.onerror?.();
      [this.naturalWidth, this.naturalHeight] = [768, 768];
      return this.onload?.();
    });
  }
}

/** Opens a folder; resolves when the page is ready. @param {string} where
 * @param {string} hash */
async function open(where, hash = "") {
  folder = where;
  const html = fs.readFileSync(path.join(where, "index.html"), "utf8");
  for (const [, tag, rest] of html.matchAll(/<(\w+)([^>]*\sid="[^>]*)>/g)) {
    const made = new Element(tag);
    for (const [, name, value] of rest.matchAll(/([\w-]+)(?:="([^"]*)")?/g)) {
      if (name === "hidden") made.hidden = true;
      else made.setAttribute(name, value ?? "");
    }
  }
  const body = new Element("body");
  const acts = {};
  Object.assign(globalThis, {
    window: globalThis, addEventListener: (type, act) => { acts[type] = act; },
    location: { hash },
    history: { replaceState: (_a, _b, to) => { globalThis.location.hash = to; } },
    document: {
      body, head: new Element("head"), createElement: (tag) => new Element(tag),
      getElementById: (id) => elements.get(id) ?? null,
      // For [data-key~="…"] alone.
      querySelector: (selector) => [...elements.values()].find((e) =>
        e.dataset.key?.split(" ").includes(selector.slice(12, -2))) ?? null,
      activeElement: body,
    },
    devicePixelRatio: 1,
    CSS: { escape: (text) => text },
    Path2D: class { moveTo() {} lineTo() {} rect() {} closePath() {} },
    Image: Picture,
    ResizeObserver: class { observe() {} },
    requestAnimationFrame: (f) => setImmediate(f),
  });
  URL.createObjectURL = (blob) => { blobs.set(`blob:${blobs.size}`, blob); return `blob:${blobs.size - 1}`; };
  URL.revokeObjectURL = () => {};
  load(...scripts().map((name) => path.join(where, name)));
  for (let i = 0; i < 500 && body.dataset.ready !== "1"; i += 1) {
    await new Promise((done) => setTimeout(done, 5));
  }
  return { raylatent: globalThis.raylatent, elements, downloads, calls, read, body, acts };
}

/** Waits until something holds. @param {() => boolean} test */
async function until(test) {
  for (let i = 0; i < 1000 && !test(); i += 1) await new Promise((done) => setTimeout(done, 5));
  if (!test()) throw new Error(`This never came: ${test}`);
}

module.exports = { open, until };

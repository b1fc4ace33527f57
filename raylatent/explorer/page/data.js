"use strict";
// What the page reads: facts and columns, as scripts, since a page that was opened by double click reads nothing else.
/**
 * @typedef {{n: number, columns: [string, string][]}} About
 * @typedef {Record<string, any> & {n: number}} Block the columns by name, and their length
 */
raylatent.data = (() => {
  /** @type {Record<string, any>} */
  const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array };
  const [NO_U4, NO_I4, NO_U1] = [4294967295, -2147483648, 255];
  const RETRY_MS = 5000; // until a picture is asked for once more, as of a server that was busy
  const LEAST_PICTURE_PX = 150; // on the screen: of a tile at its own size, the smallest pictures that are drawn
  /** Bytes of base64. @param {string} text @returns {Uint8Array} */
  function bytesOf(text) {
    const native = /** @type {any} */ (Uint8Array).fromBase64;
    if (native) return native.call(Uint8Array, text);
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
    return bytes;
  }
  /** @param {Uint8Array} bytes @param {number} start @param {number} n @param {string} type u1 u2 u4 i4 f4 */
  function unshuffled(bytes, start, n, type) {
    const width = TYPES[type].BYTES_PER_ELEMENT;
    const plain = new Uint8Array(n * width);
    for (let b = 0; b < width; b += 1) {
      const from = start + b * n;
      for (let i = 0; i < n; i += 1) plain[i * width + b] = bytes[from + i];
    }
    return new TYPES[type](plain.buffer);
  }
  /** The columns of a block. @param {About} about @param {string} text @returns {Promise<Block>} */
  async function decoded(about, text) {
    const stream = new Blob([/** @type {BlobPart} */ (bytesOf(text))]).stream()
      .pipeThrough(new DecompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const block = /** @type {Block} */ (Object.create(null));
    block.n = about.n;
    let start = 0;
    for (const [name, type] of about.columns) {
      // The length of a block is its n; how many tiles a cell has is its column "tiles".
      block[name === "n" ? "tiles" : name] = unshuffled(bytes, start, about.n, type);
      start += about.n * TYPES[type].BYTES_PER_ELEMENT;
    }
    return block;
  }
  /** Whether a bit of a bitmap is set. @param {Uint8Array} bits @param {number} i */
  const bit = (bits, i) => (bits[i >> 3] >> (i & 7)) & 1;
  /** What was used last, up to a bound: the oldest goes first. */
  class Recent extends Map {
    /** @param {number} most */
    constructor(most) {
      super();
      this.most = most;
    }
    /** @param {string} name */
    get(name) {
      const value = super.get(name);
      if (super.delete(name)) super.set(name, value);
      return value;
    }
    /** @param {string} name @param {any} value */
    set(name, value) {
      super.set(name, value);
      if (this.size > this.most) super.delete(this.keys().next().value);
      return this;
    }
  }
  /** The blocks and pictures of one map's folder. */
  class Store {
    /** @param {string} base "" or a path with a slash at its end @param {() => void} arrived of what can be drawn */
    constructor(base, arrived) {
      this.base = base;
      this.arrived = arrived;
      this.blocks = new Recent(80);
      this.pictures = new Recent(0); // as many as `holds` says
      /** @type {Map<string, Promise<Block>>} */
      this.coming = new Map();
      this.failed = new Set();
    }
    /** A block that is here, or undefined; then it is asked for. @param {string} name */
    block(name) {
      const found = this.blocks.get(name);
      if (!found && !this.coming.has(name) && !this.failed.has(name)) {
        this.load(name).then(this.arrived, (error) => {
          this.failed.add(name);
          raylatent.page.say(error.message);
        });
      }
      return found;
    }
    /** A block, when it has come. @param {string} name @returns {Promise<Block>} */
    async load(name) {
      const found = this.blocks.get(name) ?? this.coming.get(name);
      if (found) return found;
      const coming = this.script(name).then(async ([about, text]) => {
        const block = await decoded(about, text);
        this.blocks.set(name, block);
        return block;
      }).finally(() => this.coming.delete(name));
      this.coming.set(name, coming);
      return coming;
    }
    /** What a script of the folder hands over. @param {string} name @returns {Promise<any>} */
    script(name) {
      return new Promise((done, fail) => {
        const script = /** @type {any} */ (document.createElement("script"));
        const path = `${this.base}data/${name}.js`;
        script.onload = script.onerror = () => {
          script.remove();
          // A script that ran has handed its block over by now, and this changes nothing.
          fail(new Error(`The file ${path} could not be read: copy the whole folder, or write it again ` +
            "with `raylatent explore`."));
        };
        Object.assign(script, { handOver: done, src: path });
        document.head.append(script);
      });
    }
    /** Keeps as many pictures as two views of a size show. @param {number} width @param {number} height CSS pixels */
    holds(width, height) {
      const along = (/** @type {number} */ px) => Math.ceil(px / LEAST_PICTURE_PX) + 1;
      this.pictures.most = 2 * along(width) * along(height);
    }
    /** A picture that is here, or null, without asking. @param {string} path @returns {HTMLImageElement | null} */
    pictureHere(path) {
      const found = this.pictures.get(path);
      return found?.complete && found.naturalWidth > 0 ? found : null;
    }
    /** A picture that is here, or null; then it is asked for. @param {string} path */
    picture(path) {
      if (this.pictures.get(path)) return this.pictureHere(path);
      const image = new Image();
      image.decoding = "async";
      image.onload = () => this.arrived();
      image.onerror = () => {
        if (this.failed.has(path)) return;
        this.failed.add(path);
        setTimeout(() => {
          this.pictures.delete(path);
          this.arrived();
        }, RETRY_MS);
      };
      image.src = this.base + path;
      this.pictures.set(path, image);
      return null;
    }
  }
  /** Where a script hands over what it has. @param {any} value */
  const meta = (value) => /** @type {any} */ (document.currentScript).handOver(value);
  /** @param {string} _ name @param {About} about @param {string} text */
  const block = (_, about, text) => meta([about, text]);
  Object.assign(raylatent, { meta, block });
  return { NO_U4, NO_I4, NO_U1, bytesOf, unshuffled, decoded, bit, Recent, Store };
})();

"use strict";
// A selection as files: CSV, GeoJSON for QuPath, Slideflow's ROI CSV, polygons. Only `download` needs a page.
/**
 * @typedef {{slide: Uint32Array, tile: Uint32Array, loc_x: Int32Array, loc_y: Int32Array, x: Float32Array,
 *   y: Float32Array, label: Uint8Array, novelty: Float32Array, pred: Uint16Array, n: number}} Members by slide and tile
 */
raylatent.save = (() => {
  const NO_LOC = -2147483648;
  const NAMESPACE_URL = "6ba7b8119dad11d180b400c04fd430c8"; // RFC 4122: of addresses
  /** The UUID of version 5 of a name in the name space of addresses; none on plain http, where browsers have no
   * SHA-1: QuPath then makes its own. @param {string} name @returns {Promise<string | undefined>} */
  async function uuid5(name) {
    if (!globalThis.crypto?.subtle) return undefined;
    const space = (NAMESPACE_URL.match(/../g) ?? []).map((h) => parseInt(h, 16));
    const text = new Uint8Array([...space, ...new TextEncoder().encode(name)]);
    const bytes = new Uint8Array(await crypto.subtle.digest("SHA-1", text));
    bytes[6] = (bytes[6] & 0x0f) | 0x50;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes.slice(0, 16), (b) => b.toString(16).padStart(2, "0"));
    return hex.join("").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  }
  /** A text in a CSV: quoted where needed, and never a formula. @param {string} text */
  function quoted(text) {
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }
  /** A name as that of a file: as it is, where it can be. @param {string} name */
  function fileName(name) {
    if (!/[\x00-\x1f\x7f/\\]/.test(name) && /[^.]/.test(name)) return name;
    return encodeURIComponent(name).replace(/^\.+/, (dots) => "%2E".repeat(dots.length));
  }
  /** A float32 in as few digits as tell it, as `raylatent select` writes it; nothing for NaN. @param {number} v */
  function digits(v) {
    if (!Number.isFinite(v)) return "";
    const few = [6, 7, 8].find((n) => Math.fround(Number(v.toPrecision(n))) === v);
    return String(Number(v.toPrecision(few ?? 9)));
  }
  const loc = (/** @type {number} */ v) => (v === NO_LOC ? "" : String(v));
  /** Members as CSV, with their own labels. @param {any} meta @param {Members} members @param {string} name of all */
  function csvOf(meta, members, name) {
    const own = meta.labels.of === "tile" && meta.labels.column === "label" ? meta.labels.names : [];
    const labels = own.map((/** @type {string} */ one) => one === "(other labels)" ? "" : quoted(one));
    const pieces = ["slide,tile_index,loc_x,loc_y,x,y,knn_distance,label,region\r\n"];
    for (let i = 0; i < members.n; i += 1) {
      const columns = [
        quoted(meta.slides[members.slide[i]].name), members.tile[i], loc(members.loc_x[i]),
        loc(members.loc_y[i]), digits(members.x[i]), digits(members.y[i]), digits(members.novelty[i]),
        labels[members.label[i]] ?? "", quoted(name),
      ];
      pieces.push(`${columns.join(",")}\r\n`);
    }
    return pieces;
  }
  /** [slide, from, to] of each slide's members. @param {Members} members */
  function bySlide(members) {
    const found = [];
    for (let i = 0; i < members.n; i += 1) {
      if (i === 0 || members.slide[i] !== members.slide[i - 1]) found.push([members.slide[i], i, i]);
      found[found.length - 1][2] = i + 1;
    }
    return found;
  }
  /** The square of a tile in level-0 pixels, less a shift; side 0 where the window is not known. @param {any} slide
   * @param {number} x @param {number} y of its middle @param {number[]} shift */
  function squareOf({ window_px: side }, x, y, shift = [0, 0]) {
    const half = Math.floor((side ?? 0) / 2);
    return { left: x - half - shift[0], top: y - half - shift[1], side: side ?? 0 };
  }
  /** How many members have no place in their slide: GeoJSON and regions leave them out. @param {Members} members */
  const withoutPlace = ({ loc_x: x, loc_y: y }) => x.filter((v, i) => v === NO_LOC || y[i] === NO_LOC).length;
  /** A slide's file for QuPath: squares in level-0 pixels from the bounds on, as QuPath counts; points where the window
   * is not known. @param {any} meta @param {Members} members @param {string} name @param {number[]} part of bySlide */
  async function geojsonOf(meta, members, name, [id, from, to]) {
    const slide = meta.slides[id];
    const pieces = ['{"type": "FeatureCollection", "features": ['];
    for (let i = from; i < to; i += 1) {
      if (members.loc_x[i] === NO_LOC || members.loc_y[i] === NO_LOC) continue;
      const { left, top, side } = squareOf(slide, members.loc_x[i], members.loc_y[i], slide.bounds ?? undefined);
      const [right, bottom] = [left + side, top + side];
      const ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]];
      const tile = String(members.tile[i]);
      const measured = { x: members.x[i], y: members.y[i], knn_distance: members.novelty[i] };
      pieces.push((pieces.length > 1 ? ",\n" : "\n") + JSON.stringify({
        type: "Feature", id: await uuid5(`raylatent:${meta.fingerprint}:${slide.name}:${tile}`),
        geometry: side > 0 ? { type: "Polygon", coordinates: [ring] } : { type: "Point", coordinates: [left, top] },
        properties: {
          objectType: "detection", name: `${slide.name} ${tile}`,
          classification: { name: name || "selection", color: [0, 114, 178] },
          measurements: Object.fromEntries(Object.entries(measured).filter(([, v]) => Number.isFinite(v))),
          metadata: { slide: slide.name, tile_index: tile },
        },
      }));
    }
    return [...pieces, "\n]}\n"];
  }
  /** A slide's regions for Slideflow, one row a vertex, in level-0 pixels of the whole slide: tiles that touch in
   * a row are one rectangle. @param {any} meta @param {Members} members @param {string} name @param {number[]} part */
  function roiOf(meta, members, name, [id, from, to]) {
    const slide = meta.slides[id];
    const pieces = ["roi_name,x_base,y_base,label\r\n"];
    const { loc_x: x, loc_y: y } = members;
    const order = Array.from({ length: to - from }, (_, i) => from + i)
      .filter((i) => x[i] !== NO_LOC && y[i] !== NO_LOC && slide.window_px)
      .sort((a, b) => y[a] - y[b] || x[a] - x[b]);
    let start = 0;
    order.forEach((i, at) => {
      const next = order[at + 1];
      if (next !== undefined && y[next] === y[i] && x[next] - x[i] <= slide.window_px) return;
      const { left, top, side } = squareOf(slide, x[order[start]], y[i]);
      const right = squareOf(slide, x[i], y[i]).left + side;
      const roi = `ROI_${(pieces.length - 1) / 4 + 1}`;
      for (const [px, py] of [[left, top], [right, top], [right, top + side], [left, top + side]]) {
        pieces.push(`${roi},${px},${py},${quoted(name || "selection")}\r\n`);
      }
      start = at + 1;
    });
    return pieces;
  }
  /** A selection as a polygon file. @param {any} meta @param {Ring[]} rings @param {string} [name] */
  const polygonOf = (meta, rings, name) => ({ ...(name === undefined ? {} : { name }), map: meta.map.digest, rings });
  /** The areas of regions.json, or of a polygon file, of this map. @param {any} meta @param {string} text */
  function regionsOf(meta, text) {
    let given;
    try {
      given = JSON.parse(text);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new Error(`This file is not JSON: ${error.message}.`, { cause: error });
    }
    return (Array.isArray(given) ? given : [given]).map((one) => {
      if (one?.map !== meta.map.digest) {
        throw new Error(`This selection is of another map (${one?.map ?? "none is named"}); ` +
          "open the explorer of that map.");
      }
      const rings = raylatent.geometry.ringsOf(one.rings ?? one.polygon);
      return { name: typeof one.name === "string" ? one.name : "", rings };
    });
  }
  /** Hands over a file. @param {string} name @param {BlobPart[]} pieces @param {string} type */
  function download(name, pieces, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(pieces, { type }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
  return { uuid5, quoted, fileName, csvOf, bySlide, withoutPlace, geojsonOf, roiOf, polygonOf, regionsOf, download };
})();

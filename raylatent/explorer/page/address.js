"use strict";
// The state of the page in its address, so that a view can be sent: pure functions.
/**
 * @typedef {{map: string, at: number[] | null, by: string, show: string[] | null, cell: number[] | null,
 *   labels: number[] | null, slides: number[] | null, select: Ring[]}} Told
 */

raylatent.address = (() => {
  const MOST_CHARS = 30_000; // of a selection; browsers take more
  /** The part of the address after #. @param {Told} told @returns {string} */
  function written(told) {
    const parts = new URLSearchParams();
    if (told.map) parts.set("map", told.map);
    if (told.at) parts.set("at", told.at.map((v) => Number(v.toPrecision(9))).join(","));
    parts.set("by", told.by);
    if (told.show) parts.set("show", told.show.join(","));
    if (told.cell) parts.set("cell", told.cell.join(","));
    if (told.labels) parts.set("labels", told.labels.join(","));
    if (told.slides) parts.set("slides", told.slides.join(","));
    if (told.select.length > 0) {
      const text = told.select.map((ring) => ring.flat().join(",")).join(";");
      // A selection that is too long for an address is saved as a polygon file.
      if (text.length <= MOST_CHARS) parts.set("select", text);
    }
    return String(parts).replaceAll("%2C", ",").replaceAll("%3B", ";");
  }
  /** Numbers of a text, or null where one is none. @param {string | null} text @returns {number[] | null} */
  function numbers(text) {
    if (text === null) return null;
    if (text === "") return [];
    const found = text.split(",").map(Number);
    return found.every(Number.isFinite) ? found : null;
  }
  /** What an address tells; what cannot be read is left out. @param {string} hash @returns {Told} */
  function read(hash) {
    const parts = new URLSearchParams(hash.replace(/^#/, ""));
    const at = numbers(parts.get("at"));
    const cell = numbers(parts.get("cell"));
    /** @type {Ring[]} */
    const rings = [];
    for (const text of parts.get("select")?.split(";") ?? []) {
      const flat = numbers(text) ?? [];
      const ring = [];
      for (let i = 0; i + 1 < flat.length; i += 2) ring.push([flat[i], flat[i + 1]]);
      if (ring.length > 2) rings.push(ring);
    }
    return { map: parts.get("map") ?? "", at: at?.length === 3 && at[2] > 0 ? at : null, by: parts.get("by") ?? "",
      show: parts.get("show")?.split(",").filter(Boolean) ?? null, cell: cell?.length === 3 ? cell : null,
      labels: numbers(parts.get("labels")), slides: numbers(parts.get("slides")), select: rings,
    };
  }
  return { written, read };
})();

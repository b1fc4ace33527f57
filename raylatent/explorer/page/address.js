"use strict";
// The state of the page in its address, so that a view can be sent: pure functions.
/**
 * @typedef {{map: string, at: number[] | null, by: string, show: string[] | null, cell: number[] | null,
 *   labels: number[] | null, slides: number[] | null, select: Ring[]}} Told
 */
raylatent.address = (() => {
  const MOST_CHARS = 30_000; // of a selection; browsers take more
  /** Rings as a text. @param {Ring[]} rings */
  const textOf = (rings) => rings.map((ring) => ring.flat().join(",")).join(";");
  /** Whether an address can have a selection; else it is sent as a polygon file. @param {Ring[]} rings */
  const fits = (rings) => textOf(rings).length <= MOST_CHARS;
  /** The part of the address after #. @param {Told} told @returns {string} */
  function written(told) {
    const at = told.at?.map((v) => Number(v.toPrecision(9)));
    const parts = new URLSearchParams();
    for (const [key, value] of Object.entries({ ...told, at, select: fits(told.select) ? textOf(told.select) : "" })) {
      if (value !== null && value !== undefined && value !== "") parts.set(key, String(value));
    }
    return String(parts).replaceAll("%2C", ",").replaceAll("%3B", ";");
  }
  /** Numbers of a text, or null where one is none. @param {string | null} text @returns {number[] | null} */
  function numbers(text) {
    if (!text) return text === "" ? [] : null;
    const found = text.split(",").map(Number);
    return found.every(Number.isFinite) ? found : null;
  }
  /** What an address tells; what cannot be read is left out. @param {string} hash @returns {Told} */
  function read(hash) {
    const parts = new URLSearchParams(hash.replace(/^#/, ""));
    const [at, cell] = [numbers(parts.get("at")), numbers(parts.get("cell"))];
    const ringOf = (/** @type {number[]} */ flat) =>
      Array.from({ length: Math.floor(flat.length / 2) }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
    const rings = (parts.get("select")?.split(";") ?? []).map((text) => ringOf(numbers(text) ?? []));
    return {
      map: parts.get("map") ?? "", at: at?.length === 3 && at[2] > 0 ? at : null, by: parts.get("by") ?? "",
      show: parts.get("show")?.split(",").filter(Boolean) ?? null, cell: cell?.length === 3 ? cell : null,
      labels: numbers(parts.get("labels")), slides: numbers(parts.get("slides")),
      select: rings.filter((ring) => ring.length > 2),
    };
  }
  return { fits, written, read };
})();

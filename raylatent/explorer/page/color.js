"use strict";
// What color a cell or a point has, and the legend that says so: pure functions.
/**
 * @typedef {{name: string, color: string, count: number | null}} Entry
 * @typedef {(block: any, cells: boolean) => ArrayLike<number> | null} ValuesOf of a block of cells or points: numbers
 *   of entries, or values on the scale
 * @typedef {{title: string, note: string, entries: Entry[], valuesOf: ValuesOf,
 *   scale: {low: number, high: number, logarithmic?: boolean} | null}} Legend
 * @typedef {{edges: Edges, color: string, name: string}} Painted a named selection
 */
raylatent.color = (() => {
  // Okabe and Ito 2008, told apart by the color-blind; then steps around the circle.
  const OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"];
  const VIRIDIS = ["#440154", "#472D7B", "#3B528B", "#2C728E", "#21918C", "#28AE80", "#5EC962", "#ADDC30", "#FDE725"];
  const FROM_B_TO_A = ["#0072B2", "#7FB8D8", "#F2F2F2", "#F0A868", "#D55E00"];
  const [NONE, PLAIN] = ["#BBBBBB", "#35506B"]; // of what is not known, and of points where nothing colors them
  /** The color of a category: beyond those, around the circle by the golden angle. @param {number} i */
  function ofCategory(i) {
    if (i < OKABE_ITO.length) return OKABE_ITO[i];
    const part = (/** @type {number} */ k) =>
      Math.round(118 + (60 + 12 * (i % 4)) * Math.cos(2.39996 * i + 2.0944 * k));
    return `#${[0, 1, 2].map((k) => part(k).toString(16).padStart(2, "0")).join("")}`.toUpperCase();
  }
  /** #RRGGBB as a number whose bytes are red, green, blue, 255: a pixel of ImageData. @param {string} hex */
  function packed(hex) {
    const v = parseInt(hex.slice(1), 16);
    return ((255 << 24) | ((v & 255) << 16) | (v & 0xff00) | (v >> 16)) >>> 0;
  }
  /** The text of a packed color for a canvas. @param {number} p @param {number} alpha */
  const css = (p, alpha = 1) => `rgba(${p & 255},${(p >> 8) & 255},${(p >> 16) & 255},${alpha})`;
  /** A color on a scale. @param {string[]} stops @param {number} share 0 to 1 @returns {number} packed */
  function onScale(stops, share) {
    const at = Math.max(0, Math.min(1, share)) * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(at));
    const [a, b] = [packed(stops[i]), packed(stops[i + 1])];
    let mixed = 0xff000000;
    for (const shift of [0, 8, 16]) {
      const [from, to] = [(a >> shift) & 255, (b >> shift) & 255];
      mixed |= Math.round(from + (to - from) * (at - i)) << shift;
    }
    return mixed >>> 0;
  }
  const RAMP = Uint32Array.from({ length: 1024 }, (_, i) => onScale(VIRIDIS, i / 1023));
  const shade = (/** @type {number} */ share) => RAMP[Math.round(1023 * Math.max(0, Math.min(1, share)))];
  /** What can be colored by: [key, text]. @param {any} meta @param {boolean} regions @returns {[string, string][]} */
  function keysOf(meta, regions) {
    const { labels, classes, annotations, novelty } = meta;
    /** @type {(key: string, text: string, list: any[]) => [boolean, string, string][]} */
    const of = (key, text, list) => list.map((one, i) => [true, `${key}:${i}`, `${text} ${one.name ?? one}`]);
    /** @type {[boolean, string, string][]} */
    const keys = [[true, "none", "nothing"], [labels.names.length > 0, "label", `label (${labels.column})`],
      [true, "slide", "slide"], [classes.length > 0, "prediction", "prediction (most likely class)"],
      ...of("mean", "prediction of", classes.length <= 64 ? classes : []), [novelty.has, "novelty", "novelty"],
      [true, "density", "density (tiles in a cell)"], ...of("annotation", "annotation", annotations.columns),
      [regions, "region", "named selections"]];
    return keys.filter(([is]) => is).map(([, key, text]) => [key, text]);
  }
  /** The least and the largest number, of those that are there. @param {any[]} values */
  function rangeOf(values) {
    const found = values.filter(Number.isFinite);
    if (found.length === 0) return { low: 0, high: 1 };
    const [low, high] = [Math.min(...found), Math.max(...found)];
    return { low, high: high > low ? high : low + 1 };
  }
  /** What the colors mean. @type {(meta: any, key: string, level: any, regions: Painted[]) => Legend} */
  function legendOf(meta, key, level, regions) {
    const [kind, number] = key.split(":");
    /** @param {string[]} names @param {string[]} [colors] @param {number[]} [counts] */
    const list = (names, colors, counts) => names.map((name, i) => (
      { name, color: colors?.[i] ?? ofCategory(i), count: counts?.[i] ?? null }));
    const { labels, annotations, classes } = meta;
    const of = (/** @type {string} */ what) => Array.from(meta.slides, (slide) => slide[what]);
    const column = kind === "annotation" ? annotations.columns[Number(number)] : {};
    const slideOf = (/** @type {any} */ block, /** @type {boolean} */ cells) => cells ? block.top_slide : block.slide;
    /** The first named selection that has a place. @type {ValuesOf} */
    const regionOf = ({ x, y }) => Array.from(x, (v, i) =>
      regions.findIndex(({ edges }) => raylatent.geometry.inside(edges, Number(v), y[i])));
    /** @type {Record<string, Partial<Legend>>} */
    const legends = {
      label: { title: `Label (${labels.column})`, entries: list(labels.names, labels.colors, labels.counts),
        note: "A cell has the color of most of its tiles.", valuesOf: (block) => block.label },
      slide: { title: "Slide with most tiles", entries: list(of("name"), meta.colors_of_slides, of("tiles")),
        valuesOf: slideOf },
      prediction: { title: "Most likely class", entries: list(classes), valuesOf: (block) => block.pred,
        note: "Of a cell: that with the largest mean." },
      mean: { title: `Mean prediction of ${classes[Number(number)]}`, scale: { low: 0, high: 1 },
        note: "Shown for cells, not for points.", valuesOf: (block) => block[`mean_${number}`] ?? null },
      novelty: { title: "Novelty (distance to the nearest of the tiles that the map was fitted on)",
        scale: { low: 0, high: meta.novelty.max || 1 }, valuesOf: (block) => block.novelty },
      density: { title: "Tiles in a cell (logarithmic)", valuesOf: (block) => block.tiles ?? null,
        scale: { low: 1, high: level.most ?? meta.n, logarithmic: true } },
      annotation: { title: column.name, note: "Of a cell: the slide with most tiles.",
        valuesOf: (block, cells) => Array.from(slideOf(block, cells), (s) => column.values[Number(s)] ?? NaN),
        ...(column.kind === "number" ? { scale: rangeOf(column.values) } : { entries: list(column.names ?? []) }) },
      region: { title: "Named selections", note: "Of a cell: where its tile lies.", valuesOf: regionOf,
        entries: regions.map(({ name, color }) => ({ name, color, count: null })) },
    };
    return { title: "", note: "", entries: [], scale: null, valuesOf: () => null, ...legends[kind] };
  }
  /** The packed colors of a block of cells or points. @param {any} meta @param {string} key @param {any} level
   * @param {Painted[]} regions @param {any} block @param {boolean} cells @returns {Uint32Array} */
  function paint(meta, key, level, regions, block, cells) {
    const { entries, scale, valuesOf } = legendOf(meta, key, level, regions);
    const [values, none, listed] = [valuesOf(block, cells), packed(NONE), entries.map((one) => packed(one.color))];
    const { low, high, logarithmic } = scale ?? { low: 0, high: 1 };
    const shareOf = (/** @type {number} */ v) =>
      logarithmic ? Math.log(v) / Math.log(Math.max(2, high)) : (v - low) / (high - low);
    const colors = new Uint32Array(block.n).fill(values || cells ? none : packed(PLAIN));
    for (let i = 0; values && i < block.n; i += 1) {
      if (!scale) colors[i] = listed[values[i]] ?? none;
      else if (!Number.isNaN(values[i])) colors[i] = shade(shareOf(values[i]));
    }
    return colors;
  }
  return { OKABE_ITO, VIRIDIS, FROM_B_TO_A, ofCategory, packed, css, onScale, keysOf, legendOf, paint };
})();

"use strict";
// What color a cell or a point has, and the legend that says so: pure functions.
/**
 * @typedef {{name: string, color: string, count: number | null}} Entry
 * @typedef {{title: string, note: string, entries: Entry[],
 *   scale: {low: number, high: number, whole?: boolean} | null}} Legend
 * @typedef {{edges: Edges, color: string, name: string}} Painted a named selection
 */

raylatent.color = (() => {
  // Okabe and Ito 2008, told apart by the color-blind; then steps around the circle.
  const OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"];
  const VIRIDIS = ["#440154", "#472D7B", "#3B528B", "#2C728E", "#21918C", "#28AE80", "#5EC962", "#ADDC30", "#FDE725"];
  const FROM_B_TO_A = ["#0072B2", "#7FB8D8", "#F2F2F2", "#F0A868", "#D55E00"];
  const NONE = "#BBBBBB";
  const PLAIN = "#35506B";
  /** The color of a category: beyond those, around the circle by the golden angle. @param {number} i @returns {string} */
  function ofCategory(i) {
    if (i < OKABE_ITO.length) return OKABE_ITO[i];
    const part = (/** @type {number} */ k) => Math.round(118 + (60 + 12 * (i % 4)) * Math.cos(2.39996 * i + 2.0944 * k));
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
    const of = (/** @type {string} */ key, /** @type {string} */ text, /** @type {any[]} */ list) =>
      list.map((one, i) => /** @type {[string, string]} */ ([`${key}:${i}`, `${text} ${one.name ?? one}`]));
    const when = (/** @type {boolean} */ is, /** @type {string} */ key, /** @type {string} */ text) =>
      is ? [/** @type {[string, string]} */ ([key, text])] : [];
    return [["none", "nothing"], ...when(labels.names.length > 0, "label", `label (${labels.column})`), ["slide", "slide"],
      ...when(classes.length > 0, "prediction", "prediction (most likely class)"), ...of("mean", "prediction of", classes.length <= 64 ? classes : []),
      ...when(novelty.has, "novelty", "novelty"), ["density", "density (tiles in a cell)"],
      ...of("annotation", "annotation", annotations.columns), ...when(regions, "region", "named selections")];
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
    /** @type {Record<string, Partial<Legend>>} */
    const legends = {
      label: { title: `Label (${labels.column})`, entries: list(labels.names, labels.colors, labels.counts),
        note: "A cell has the color of most of its tiles." },
      slide: { title: "Slide with most tiles", entries: list(of("name"), meta.colors_of_slides, of("tiles")) },
      prediction: { title: "Most likely class", entries: list(classes), note: "Of a cell: that with the largest mean." },
      mean: { title: `Mean prediction of ${classes[Number(number)]}`, scale: { low: 0, high: 1 }, note: "Shown for cells, not for points." },
      novelty: { title: "Novelty (distance to the nearest of the tiles that the map was fitted on)",
        scale: { low: 0, high: meta.novelty.max || 1 } },
      density: { title: "Tiles in a cell (logarithmic)", scale: { low: 1, high: level.most ?? meta.n, whole: true } },
      annotation: { title: column.name, note: "Of a cell: the slide with most tiles.",
        ...(column.kind === "number" ? { scale: rangeOf(column.values) } : { entries: list(column.names ?? []) }) },
      region: { title: "Named selections", note: "Of a cell: where its tile lies.",
        entries: regions.map(({ name, color }) => ({ name, color, count: null })) },
    };
    return { title: "", note: "", entries: [], scale: null, ...legends[kind] };
  }
  /** The color of each category of a list; the last, 255 or more, is that of none. @param {Entry[]} list */
  function table(list) {
    const colors = new Uint32Array(Math.max(256, list.length + 1)).fill(packed(NONE));
    list.forEach(({ color }, i) => (colors[i] = packed(color)));
    return colors;
  }
  /** The packed colors of a block of cells or points. @param {any} meta @param {string} key @param {any} level
   * @param {Painted[]} regions @param {any} block @param {boolean} cells @returns {Uint32Array} */
  function paint(meta, key, level, regions, block, cells) {
    const [kind, number] = key.split(":");
    const legend = legendOf(meta, key, level, regions);
    const colors = new Uint32Array(block.n).fill(packed(cells ? NONE : PLAIN));
    const slide = cells ? block.top_slide : block.slide;
    const listed = table(legend.entries);
    const byList = (/** @type {ArrayLike<number>} */ of) => {
      for (let i = 0; i < block.n; i += 1) colors[i] = listed[of[i]];
    };
    const byScale = (/** @type {(i: number) => number | null} */ value) => {
      const { low, high } = /** @type {{low: number, high: number}} */ (legend.scale);
      for (let i = 0; i < block.n; i += 1) {
        const v = value(i) ?? NaN;
        colors[i] = Number.isNaN(v) ? packed(NONE) : shade((v - low) / (high - low));
      }
    };
    if (kind === "label") byList(block.label);
    else if (kind === "slide") byList(slide);
    else if (kind === "prediction") byList(block.pred);
    else if (kind === "mean" && cells) byScale((i) => block[`mean_${number}`][i]);
    else if (kind === "novelty") byScale((i) => block.novelty[i]);
    else if (kind === "density" && cells) {
      const most = Math.log(Math.max(2, /** @type {any} */ (legend.scale).high));
      for (let i = 0; i < block.n; i += 1) colors[i] = shade(Math.log(block.tiles[i]) / most);
    } else if (kind === "annotation") {
      const { values } = meta.annotations.columns[Number(number)];
      if (legend.scale) byScale((i) => values[slide[i]] ?? null);
      else byList(Array.from(slide, (/** @type {number} */ s) => values[s] ?? listed.length - 1));
    } else if (kind === "region") {
      colors.fill(packed(NONE));
      // The first selection that has a place names it, so it is painted last.
      [...regions].reverse().forEach(({ edges, color }) => {
        for (let i = 0; i < block.n; i += 1) {
          if (raylatent.geometry.inside(edges, block.x[i], block.y[i])) colors[i] = packed(color);
        }
      });
    }
    return colors;
  }
  return { OKABE_ITO, VIRIDIS, FROM_B_TO_A, ofCategory, packed, css, onScale, keysOf, legendOf, paint };
})();

// @ts-check
// Draws a routing map on a canvas: cells, axes, shot borders, colour bar, legend.

import { CLOSED, colour, FAINT, HATCH, INK, kindName, ofBank, PAPER, runs, SEEN, scaleTop, valuesOf } from "./data.js"
import { say } from "../lib/words.js"

/** @typedef {import("./data.js").RoutingMap} RoutingMap */
/** @typedef {import("./data.js").Lines} Lines */

const MARGIN = { left: 58, top: 40, right: 62, bottom: 30 }
const SPAN = 15 // width of what is not video

/** Borders in pixels [n + 1] of rows or columns. */
function edges(/** @type {Lines} */ lines, /** @type {number} */ size) {
  const wide = (/** @type {string} */ kind) => kind === "video" || kind === "memory"
  const others = lines.kind.filter((kind) => !wide(kind)).length
  const videos = lines.kind.length - others
  const span = others ? Math.min(SPAN, size / 2 / others) : 0
  const borders = [0]
  lines.kind.forEach((kind, i) => borders.push(borders[i] + (wide(kind) ? (size - span * others) / videos : span)))
  return borders
}

/** @type {Map<string, HTMLCanvasElement>} */
const tiles = new Map()

function hatch(/** @type {CanvasRenderingContext2D} */ pen, /** @type {string} */ paper) {
  let tile = tiles.get(paper)
  if (!tile) {
    tile = document.createElement("canvas")
    tile.width = tile.height = 6
    const ink = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"))
    if (paper) {
      ink.fillStyle = paper
      ink.fillRect(0, 0, 6, 6)
    }
    ink.strokeStyle = HATCH
    ink.lineWidth = 1.6
    for (const x of [-6, 0, 6]) {
      ink.beginPath()
      ink.moveTo(x - 1, 7)
      ink.lineTo(x + 7, -1)
      ink.stroke()
    }
    tiles.set(paper, tile)
  }
  return /** @type {CanvasPattern} */ (pen.createPattern(tile, "repeat"))
}

/**
 * @param {CanvasRenderingContext2D} pen @param {RoutingMap} map
 * @param {{width: number, height: number, show: string, cell?: [number, number] | null, row?: number}} options
 *   cell: [row, column] under the pointer or keys; row: the chosen one
 */
export function drawMap(pen, map, { width, height, show, cell = null, row = -1 }) {
  const values = valuesOf(map, show)
  const top = scaleTop(values, map.parts)
  const plot = { x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom }
  const [x, y] = [edges(map.columns, plot.width), edges(map.rows, plot.height)]
  const drawn = { plot, x, y, top }
  pen.fillStyle = PAPER
  pen.fillRect(0, 0, width, height)
  pen.save()
  pen.translate(plot.x, plot.y)
  cells(pen, map, values, drawn)
  borders(pen, map, drawn)
  numbers(pen, map, values, drawn)
  marks(pen, drawn, cell, row)
  axes(pen, map, drawn)
  bar(pen, drawn, ofBank(map) ? "attention" : show)
  pen.restore()
  return drawn
}

/** @typedef {{plot: {x: number, y: number, width: number, height: number}, x: number[], y: number[], top: number}} Drawn */

/** @param {CanvasRenderingContext2D} pen @param {RoutingMap} map @param {number[][]} values @param {Drawn} drawn */
function cells(pen, map, values, { x, y, top }) {
  const [seen, partly] = [hatch(pen, SEEN), hatch(pen, "")]
  const gap = Math.min(x[x.length - 1] / x.length, y[y.length - 1] / y.length) > 9 ? 1 : 0
  values.forEach((line, r) =>
    line.forEach((value, c) => {
      if (map.open[r][c] < 0) return // never met: the paper shows
      const [left, up, width, height] = [x[c], y[r], x[c + 1] - x[c] - gap, y[r + 1] - y[r] - gap]
      const always = map.always[r][c] / map.parts
      pen.fillStyle = value >= 0 ? colour(value / map.parts / top) : always > 0 ? seen : CLOSED
      pen.fillRect(left, up, width + (gap ? 0 : 0.5), height + (gap ? 0 : 0.5))
      if (always > 0 && always < 0.9999 && value >= 0) {
        const part = Math.sqrt(2 * Math.min(always, 0.5)) // a corner as large as its part
        pen.fillStyle = partly
        pen.beginPath()
        pen.moveTo(left, up)
        pen.lineTo(left + width * part, up)
        pen.lineTo(left, up + height * part)
        pen.fill()
      }
    }),
  )
}

/** @param {CanvasRenderingContext2D} pen @param {RoutingMap} map @param {Drawn} drawn */
function borders(pen, map, { plot, x, y }) {
  pen.fillStyle = INK
  for (const { from } of runs(map.columns).slice(1)) pen.fillRect(x[from] - 1, -5, 1.5, plot.height + 5)
  for (const { from } of runs(map.rows).slice(1)) pen.fillRect(-5, y[from] - 1, plot.width + 5, 1.5)
}

/** @param {CanvasRenderingContext2D} pen @param {RoutingMap} map @param {number[][]} values @param {Drawn} drawn */
function numbers(pen, map, values, { x, y, top }) {
  pen.textAlign = "center"
  pen.textBaseline = "middle"
  pen.font = "600 11px system-ui, sans-serif"
  values.forEach((line, r) =>
    line.forEach((value, c) => {
      if (value < 0 || x[c + 1] - x[c] < 34 || y[r + 1] - y[r] < 16) return
      const share = value / map.parts
      pen.fillStyle = share / top > 0.55 ? PAPER : INK
      pen.fillText(`${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}`, (x[c] + x[c + 1]) / 2, (y[r] + y[r + 1]) / 2)
    }),
  )
}

/** @param {CanvasRenderingContext2D} pen @param {Drawn} drawn @param {[number, number] | null} cell @param {number} row */
function marks(pen, { plot, x, y }, cell, row) {
  pen.strokeStyle = INK
  if (row >= 0 && row + 1 < y.length) {
    pen.lineWidth = 2
    pen.strokeRect(-3, y[row] - 1, plot.width + 6, y[row + 1] - y[row] + 1)
  }
  if (cell && cell[0] + 1 < y.length && cell[1] + 1 < x.length) {
    const box = [x[cell[1]], y[cell[0]], x[cell[1] + 1] - x[cell[1]], y[cell[0] + 1] - y[cell[0]]]
    pen.lineWidth = 3
    pen.strokeStyle = PAPER
    pen.strokeRect(box[0] - 1, box[1] - 1, box[2] + 2, box[3] + 2)
    pen.lineWidth = 1.5
    pen.strokeStyle = "#ffffff"
    pen.strokeRect(box[0] - 1, box[1] - 1, box[2] + 2, box[3] + 2)
  }
}

/** @param {CanvasRenderingContext2D} pen @param {RoutingMap} map @param {Drawn} drawn */
function axes(pen, map, { plot, x, y }) {
  const label = (/** @type {Lines} */ lines, /** @type {number} */ i, /** @type {number} */ room) => {
    if (lines.name?.[i]) return shortened(pen, lines.name[i], room)
    if (lines.kind[i] !== "video") return lines.kind[i] === "reference" ? say("ref") : kindName(lines.kind[i])
    return room >= 44 ? say("shot {shot}", { shot: lines.shot[i] + 1 }) : String(lines.shot[i] + 1)
  }
  pen.textBaseline = "alphabetic"
  pen.font = "12px system-ui, sans-serif"
  pen.fillStyle = INK
  let free = -MARGIN.left
  for (const { line, from, to } of runs(map.columns)) {
    const text = label(map.columns, line, x[to] - x[from])
    const [middle, half] = [(x[from] + x[to]) / 2, pen.measureText(text).width / 2]
    pen.textAlign = "center"
    if (middle - half >= free) {
      pen.fillText(text, middle, -9)
      free = middle + half + 5
    }
  }
  free = -Infinity
  for (const { line, from, to } of runs(map.rows)) {
    const middle = (y[from] + y[to]) / 2
    pen.textAlign = "right"
    if (middle - 6 < free) continue
    pen.fillText(label(map.rows, line, 99), -9, middle + 4)
    free = middle + 8
  }
  pen.fillStyle = FAINT
  pen.font = "11px system-ui, sans-serif"
  pen.textAlign = "right"
  pen.fillText(say("is read →"), plot.width, -26)
  pen.textAlign = "left"
  pen.fillText(say("reads ↓"), -MARGIN.left + 6, -26)
  if (map.view === "shots" || ofBank(map)) return
  free = -Infinity
  for (const { line, from } of runs(map.columns)) {
    if (map.columns.kind[line] !== "video" || x[from] < free) continue
    const text = String(map.columns.frame[line])
    pen.fillText(text, x[from], plot.height + 14)
    free = x[from] + pen.measureText(text).width + 6
  }
  pen.textAlign = "right"
  pen.fillText(say("frame"), -9, plot.height + 14)
}

export function shortened(/** @type {CanvasRenderingContext2D} */ pen, /** @type {string} */ name, /** @type {number} */ room) {
  while (name.length > 1 && pen.measureText(name).width > room) name = `${name.replace(/…$/, "").slice(0, -1)}…`
  return name
}

/** @param {CanvasRenderingContext2D} pen @param {Drawn} drawn @param {string} show */
function bar(pen, { plot, top }, show) {
  const left = plot.width + 12
  for (let i = 0; i < plot.height; i++) {
    pen.fillStyle = colour(1 - i / plot.height)
    pen.fillRect(left, i, 11, 1.5)
  }
  pen.fillStyle = INK
  pen.textAlign = "left"
  pen.textBaseline = "middle"
  pen.font = "11px system-ui, sans-serif"
  for (const part of [0, 0.5, 1]) pen.fillText(`${Number((part * top * 100).toPrecision(3))} %`, left + 15, (1 - part) * plot.height + (part - 0.5) * 10)
  pen.fillStyle = FAINT
  pen.fillText(show === "attention" ? say("attended") : say("chosen"), left - 4, plot.height + 14)
}

/** [row, column] at a place on the canvas, or null. */
export function findCell(/** @type {Drawn} */ { plot, x, y }, /** @type {number} */ px, /** @type {number} */ py) {
  const find = (/** @type {number[]} */ borders, /** @type {number} */ at) => {
    if (at < 0 || at >= borders[borders.length - 1]) return -1
    return borders.findIndex((border, i) => border <= at && at < borders[i + 1])
  }
  const cell = [find(y, py - plot.y), find(x, px - plot.x)]
  return cell[0] < 0 || cell[1] < 0 ? null : /** @type {[number, number]} */ (cell)
}

/** What the greys mean, for this map: [{swatch, text}]. */
export function legend(/** @type {RoutingMap} */ map) {
  const has = (/** @type {(r: number, c: number) => boolean} */ is) => map.share.some((line, r) => line.some((_, c) => is(r, c)))
  const found = []
  if (has((r, c) => map.always[r][c] > 0)) found.push({ swatch: "hatched", text: say("always seen, not chosen") })
  if (has((r, c) => map.open[r][c] === 0 && map.always[r][c] === 0)) found.push({ swatch: "closed", text: say("later, not allowed") })
  if (has((r, c) => map.open[r][c] < 0)) found.push({ swatch: "apart", text: ofBank(map) ? say("not read in the bank") : say("never in one pass") })
  return found
}

// @ts-check
// Who reads whom between shots, as arcs: earlier shots are read above the line, later ones below it.

import { colour, FAINT, INK, links, PAPER, percent, scaleTop } from "./data.js"
import { shortened } from "./canvas.js"
import { say } from "../lib/words.js"

const BLOCK = "#464c58"
const MEMORY = "#603e58"
const MOST_NUMBERS = 15

/**
 * Arcs that meet at a shot stand side by side, outer ones outside, so that they do not cross.
 * @param {{reader: number, read: number, share: number, bank: boolean}[]} found @param {number[]} centres @param {number} room
 */
export function arcs(found, centres, room) {
  /** @type {Map<string, number>} */
  const places = new Map()
  centres.forEach((centre, shot) => {
    for (const above of [true, false]) {
      const there = new Map(
        found
          .filter(({ reader, read }) => (reader === shot || read === shot) && reader > read === above)
          .map(({ reader, read, bank }) => [`${reader + read - shot} ${bank}`, { other: reader + read - shot, bank }]),
      )
      const right = (/** @type {{other: number}} */ { other }) => Number(other > shot)
      const ordered = [...there.values()].sort((a, b) => right(a) - right(b) || b.other - a.other || Number(a.bank === !!right(a)) - Number(b.bank === !!right(b)))
      ordered.forEach(({ other, bank }, i) => places.set(`${shot} ${other} ${above} ${bank}`, centre + room * ((i + 0.5) / ordered.length - 0.5)))
    }
  })
  const place = (/** @type {number} */ a, /** @type {number} */ b, /** @type {boolean} */ above, /** @type {boolean} */ bank) =>
    places.get(`${a} ${b} ${above} ${bank}`) ?? centres[a]
  return found.map((f) => ({
    ...f,
    above: f.reader > f.read,
    begin: place(f.reader, f.read, f.reader > f.read, f.bank),
    end: place(f.read, f.reader, f.reader > f.read, f.bank),
  }))
}

/**
 * Draws into a box and returns what the pointer may find there.
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./data.js").RoutingMap | null} map by shots @param {import("./data.js").RoutingMap | null} bank by shots and memories
 * @param {{width: number, height: number, focus?: number}} box focus: the place whose arcs stand out
 */
export function drawFlow(pen, map, bank, { width, height, focus = -1 }) {
  const { names, found } = links(map, bank)
  const [count, memories] = [names.length, names.filter(Boolean).length]
  pen.fillStyle = PAPER
  pen.fillRect(0, 0, width, height)
  const step = width / Math.max(count, 1)
  const bar = Math.min(34, height / 8)
  const middle = height / 2
  const top = scaleTop([found.map((f) => f.share)], 1)
  const centres = Array.from({ length: count }, (_, i) => step * (i + 0.5))
  const drawn = arcs(found, centres, Math.min(step * 0.72, 80))
  const spots = []
  for (const arc of drawn) {
    const stroke = Math.max(1.5, (16 * arc.share) / top)
    const rise = ((height - bar) / 2 - 24) * (Math.abs(arc.reader - arc.read) / Math.max(count - 1, 1))
    const y = arc.above ? middle - bar / 2 : middle + bar / 2
    const x = (arc.begin + arc.end) / 2
    pen.globalAlpha = focus < 0 || arc.reader === focus ? 1 : 0.15
    pen.strokeStyle = colour(0.12 + (0.88 * arc.share) / top)
    pen.lineWidth = stroke
    pen.beginPath()
    pen.ellipse(x, y, Math.abs(arc.end - arc.begin) / 2, rise, 0, arc.above ? Math.PI : 0, arc.above ? 0 : Math.PI)
    pen.setLineDash(arc.bank ? [7, 5] : [])
    pen.stroke()
    spots.push({ ...arc, x, y: arc.above ? y - rise : y + rise, rise, base: y, stroke })
  }
  pen.globalAlpha = 1
  pen.setLineDash([])
  pen.textAlign = "center"
  pen.textBaseline = "middle"
  pen.font = "600 12px system-ui, sans-serif"
  const shown = focus < 0 ? spots.slice(-MOST_NUMBERS) : spots.filter((s) => s.reader === focus)
  for (const spot of shown) {
    pen.lineWidth = 5
    pen.strokeStyle = PAPER
    pen.strokeText(percent(spot.share), spot.x, spot.y)
    pen.fillStyle = INK
    pen.fillText(percent(spot.share), spot.x, spot.y)
  }
  centres.forEach((centre, i) => {
    pen.fillStyle = i === focus ? colour(0.5) : i < memories ? MEMORY : BLOCK
    pen.beginPath()
    pen.roundRect(centre - step * 0.44, middle - bar / 2 + 3, step * 0.88, bar - 6, 5)
    pen.fill()
    pen.fillStyle = INK
    const shot = i + 1 - memories
    const plain = step >= 64 ? say("shot {shot}", { shot }) : String(shot)
    pen.fillText(names[i] ? shortened(pen, names[i], step * 0.86) : plain, centre, middle)
  })
  pen.font = "12px system-ui, sans-serif"
  pen.textAlign = "left"
  pen.fillStyle = FAINT
  pen.fillText(say("reads an earlier shot"), 10, 14)
  pen.fillText(say("reads a later shot"), 10, height - 14)
  if (bank) {
    pen.textAlign = "right"
    pen.fillText(say("dashed: of its attention, in the bank"), width - 10, height - 14)
  }
  if (!found.length) {
    pen.textAlign = "center"
    pen.fillText(say("No shot reads another."), width / 2, middle / 2)
  }
  return { top, names, count, step, middle, bar, spots }
}

/**
 * The arc or shot under the pointer, or nothing.
 * @param {ReturnType<typeof drawFlow>} drawn @param {number} x @param {number} y
 * @returns {{arc?: ReturnType<typeof drawFlow>["spots"][number], shot?: number} | null}
 */
export function findInFlow(drawn, x, y) {
  if (Math.abs(y - drawn.middle) <= drawn.bar / 2) return { shot: Math.min(Math.floor(x / drawn.step), drawn.count - 1) }
  let best = null
  let nearest = 8
  for (const spot of drawn.spots) {
    if (spot.above !== y < drawn.middle) continue
    const radius = Math.hypot((x - spot.x) / (Math.abs(spot.end - spot.begin) / 2), (y - spot.base) / Math.max(spot.rise, 1))
    const away = Math.abs(radius - 1) * Math.min(Math.abs(spot.end - spot.begin) / 2, spot.rise)
    if (away < Math.max(nearest, spot.stroke / 2)) [best, nearest] = [spot, away]
  }
  return best ? { arc: best } : null
}

/** @param {string[]} names see `links` @param {{reader: number, read: number, share: number, bank: boolean}} arc */
export function tellArc(names, { reader, read, share, bank }) {
  const memories = names.filter(Boolean).length
  const told = { reader: reader + 1 - memories, read: read + 1 - memories, part: percent(share) }
  if (!bank) return say("Shot {reader} reads shot {read}: {part}.", told)
  const what = { ...told, read: names[read] || say("shot {shot}", { shot: told.read }) }
  return say("Shot {reader} gives {part} of its attention to {read}, through the bank.", what)
}

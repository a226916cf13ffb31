// @ts-check
// What a routing map says, in words, numbers and colours. No page, no node: only data in and data out.

import { say, sayReport } from "../lib/words.js"

/**
 * @typedef {{kind: string[], shot: number[], frame: number[], last_shot?: number[], name?: string[]}} Lines rows or columns; shot and frame are -1 outside the video; name: of a memory
 * @typedef {{view: string, rows: Lines, columns: Lines, share: number[][], always: number[][], open: number[][],
 *   mass: number[][] | null, density: number, steps: [number, number], blocks: number[], head: number,
 *   heads_together: boolean, parts: number}} RoutingMap numbers in 1 / parts; -1 where there is nothing
 */

// Lightness rises evenly from violet to yellow (viridis), so that the order also shows without full colour vision.
const RAMP = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
]
export const PAPER = "#15171c"
export const INK = "#eef0f4"
export const FAINT = "#aab0bc"
export const SEEN = "#343944"
export const HATCH = "#878f9f"
export const CLOSED = "#2a2d35"

/** Colour of a value in 0..1. */
export function colour(/** @type {number} */ value) {
  const at = Math.min(Math.max(value, 0), 1) * (RAMP.length - 1)
  const i = Math.min(Math.floor(at), RAMP.length - 2)
  return `rgb(${RAMP[i].map((low, c) => Math.round(low + (RAMP[i + 1][c] - low) * (at - i))).join(" ")})`
}

/** Upper end of the colours: the next 1, 2 or 5 of its decade above the largest value. */
export function scaleTop(/** @type {number[][]} */ values, /** @type {number} */ parts) {
  const largest = values.reduce((most, row) => row.reduce((m, v) => Math.max(m, v), most), 0) / parts
  for (let decade = 1e-4; decade < 0.5; decade *= 10)
    for (const step of [1, 2, 5]) if (step * decade >= largest - 1e-9) return step * decade
  return 1
}

export function percent(/** @type {number} */ value) {
  return `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`
}

/** What tokens are that are no video. */
export const kindName = (/** @type {string} */ kind) =>
  /** @type {Record<string, string>} */ ({ text: say("text"), reference: say("reference"), audio: say("audio"), other: say("other") })[kind] ?? kind

export const capital = (/** @type {string} */ text) => text.slice(0, 1).toUpperCase() + text.slice(1)

/** A map of what was read in the bank: share is part of a shot's attention. */
export const ofBank = (/** @type {RoutingMap} */ map) => map.view === "bank"

/** "shot 2, frame 5" */
export function nameOf(/** @type {Lines} */ lines, /** @type {number} */ i, /** @type {string} */ view) {
  if (lines.name?.[i]) return lines.name[i]
  if (lines.kind[i] !== "video") return kindName(lines.kind[i])
  const last = lines.last_shot?.[i] ?? -1 // where a film has more shots than the map has lines
  const told = { shot: lines.shot[i] + 1, last: last + 1, frame: lines.frame[i] }
  if (view === "shots" || view === "bank") return last < 0 ? say("shot {shot}", told) : say("shots {shot} to {last}", told)
  return last < 0 ? say("shot {shot}, frame {frame}", told) : say("shots {shot} to {last}, frame {frame}", told)
}

/** How a run goes, in one sentence. */
export function progress(/** @type {{running?: boolean, stopped?: boolean, step?: number, steps: number, status: string}} */ run) {
  const step = run.running && run.steps ? say("Step {step} of {steps}.", { step: Math.min((run.step ?? 0) + 1, run.steps), steps: run.steps }) : ""
  return [run.stopped ? say("Stopped.") : step, sayReport(run.status)].filter(Boolean).join(" ")
}

/** What is drawn: what routing chose, or where full attention would look. */
export function valuesOf(/** @type {RoutingMap} */ map, /** @type {string} */ show) {
  return show === "attention" && map.mass ? map.mass : map.share
}

/** One sentence about a cell. */
export function tell(/** @type {RoutingMap} */ map, /** @type {number} */ row, /** @type {number} */ column) {
  const at = (/** @type {number[][]} */ part) => part[row][column] / map.parts
  const names = { reader: nameOf(map.rows, row, map.view), read: nameOf(map.columns, column, map.view) }
  const said = []
  if (ofBank(map)) {
    if (map.share[row][column] < 0) return capital(say("{reader} does not read {read} in the bank.", names))
    return capital(say("{reader} gives {part} of its attention to {read}, through the bank.", { ...names, part: percent(at(map.share)) }))
  }
  if (map.open[row][column] < 0) said.push(say("never in one pass"))
  else if (at(map.always) >= 0.9999) said.push(say("always seen"))
  else if (at(map.always) > 0) said.push(say("{part} always seen", { part: percent(at(map.always)) }))
  else if (at(map.open) <= 0) said.push(say("not allowed, it comes later"))
  if (at(map.share) >= 0) said.push(say("{part} chosen", { part: percent(at(map.share)) }))
  if (map.mass && at(map.mass) >= 0) said.push(say("{part} of full attention", { part: percent(at(map.mass)) }))
  return capital(say("{reader} reads {read}: {facts}.", { ...names, facts: said.join(", ") }))
}

/** What is shown, in one sentence. */
export function selection(/** @type {RoutingMap} */ map) {
  const [first, last] = map.steps
  const steps = first === last ? say("step {first}", { first }) : say("steps {first} to {last}", { first, last })
  const blocks = map.blocks.length === 1 ? say("block {block}", { block: map.blocks[0] }) : say("mean of {count} blocks", { count: map.blocks.length })
  const head = map.head < 0 || map.heads_together ? say("mean of heads") : say("head {head}", { head: map.head })
  if (ofBank(map)) return say("{what}: {part} of attention in the bank", { what: [steps, blocks, head].join(", "), part: `${(100 * map.density).toFixed(1)} %` })
  return say("{what}: {kept} % of pairs kept", { what: [steps, blocks, head].join(", "), kept: (100 * map.density).toFixed(1) })
}

/**
 * What reads what: names of memories in their order, then "" for every shot; links between places in this list, weakest
 * first. bank: of shares of attention, through the bank.
 * @param {RoutingMap | null} map by shots @param {RoutingMap | null} [bank] by shots and memories
 */
export function links(map, bank = null) {
  const lines = [map?.rows, bank?.rows, bank?.columns].flatMap((some) => (some ? [some] : []))
  const shots = [...new Set(lines.flatMap((some) => indices(some).map((i) => some.shot[i])))].sort((a, b) => a - b)
  const names = [...new Set(lines.flatMap((some) => (some.name ?? []).filter(Boolean)))]
  const placeOf = (/** @type {Lines} */ some, /** @type {number} */ i) => (some.name?.[i] ? names.indexOf(some.name[i]) : names.length + shots.indexOf(some.shot[i]))
  const found = []
  for (const one of [map, bank])
    for (const row of one ? indices(one.rows) : [])
      for (const column of (/** @type {RoutingMap} */ (one).columns.kind.keys())) {
        const { rows, columns, share, parts } = /** @type {RoutingMap} */ (one)
        if (columns.kind[column] !== "video" && !columns.name?.[column]) continue
        const [reader, read] = [placeOf(rows, row), placeOf(columns, column)]
        if (reader !== read && share[row][column] > 0) found.push({ reader, read, share: share[row][column] / parts, bank: one === bank })
      }
  return { names: [...names, ...shots.map(() => "")], found: found.sort((a, b) => a.share - b.share) }
}

export function indices(/** @type {Lines} */ lines) {
  return lines.kind.flatMap((kind, i) => (kind === "video" ? [i] : []))
}

/** [{line, from, to}] of every shot and of everything that is not video. */
export function runs(/** @type {Lines} */ lines) {
  /** @type {{line: number, from: number, to: number}[]} */
  const found = []
  lines.kind.forEach((kind, i) => {
    const joins = i && kind === "video" && lines.kind[i - 1] === "video" && lines.shot[i] === lines.shot[i - 1]
    if (joins) found[found.length - 1].to = i + 1
    else found.push({ line: i, from: i, to: i + 1 })
  })
  return found
}

/** What one row reads, by frame: [{frame, shot, value, always}]; chunks of a frame together. */
export function reads(/** @type {RoutingMap} */ map, /** @type {number} */ row, /** @type {string} */ show) {
  const values = valuesOf(map, show)
  /** @type {Map<number, {frame: number, shot: number, value: number, always: number, open: number}>} */
  const frames = new Map()
  for (const c of indices(map.columns)) {
    const frame = map.columns.frame[c]
    const one = frames.get(frame) ?? { frame, shot: map.columns.shot[c], value: 0, always: 0, open: 0 }
    // of several chunks of a frame: shares count by what was open, attention adds up
    const open = show === "attention" ? 1 : Math.max(map.open[row][c], 0)
    one.value += Math.max(values[row][c], 0) * open
    one.open = show === "attention" ? 1 : one.open + open
    one.always = Math.max(one.always, map.always[row][c] / map.parts)
    frames.set(frame, one)
  }
  return [...frames.values()].map((one) => ({ ...one, value: one.open > 0 ? one.value / one.open / map.parts : -1 }))
}

const quoted = (/** @type {string} */ text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)

/** Every cell as a line of a table. Shares are parts of 1; empty where there is nothing. */
export function csv(/** @type {RoutingMap} */ map) {
  const head = ["reader", "reader_shot", "reader_frame", "read", "read_shot", "read_frame"]
  const lines = [[...head, ...(ofBank(map) ? ["attention"] : ["chosen", "always_seen", "open", ...(map.mass ? ["attention"] : [])])]]
  const part = (/** @type {number} */ value) => (value < 0 ? "" : String(value / map.parts))
  const name = (/** @type {Lines} */ of, /** @type {number} */ i) =>
    of.kind[i] === "video" ? ["video", String(of.shot[i] + 1), String(of.frame[i])] : [quoted(of.name?.[i] ?? of.kind[i]), "", ""]
  map.share.forEach((row, r) =>
    row.forEach((share, c) => {
      const numbers = ofBank(map) ? [share] : [share, map.always[r][c], map.open[r][c], ...(map.mass ? [map.mass[r][c]] : [])]
      lines.push([...name(map.rows, r), ...name(map.columns, c), ...numbers.map(part)])
    }),
  )
  return lines.map((line) => line.join(",") + "\r\n").join("")
}

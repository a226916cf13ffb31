// @ts-check
// What the timeline says, in words: for eyes, for screen readers, and the same in both.

import { seconds } from "./times.js"
import { lengthsName, latentOf } from "./time_rules.js"

/** @typedef {import("./film.js").Film} Film */

/** Frames as a person counts here: 29 or 1.8 s. */
export function time(/** @type {number} */ frames, /** @type {{unit: string, fps: number}} */ { unit, fps }) {
  return unit === "seconds" ? `${seconds(frames, fps)} s` : String(frames)
}

/** Both ways of counting: frame 29 (1.8 s). */
export function place(/** @type {number} */ frame, /** @type {{fps: number}} */ { fps }) {
  return `frame ${frame} (${seconds(frame, fps)} s)`
}

export function shotName(/** @type {Film} */ film, /** @type {number} */ index) {
  return film.names[index] ? `${index + 1} ${film.names[index]}` : `${index + 1}`
}

/** First and last frame of a shot, and how long it is. */
export function span(/** @type {Film} */ film, /** @type {number} */ index, /** @type {{unit: string, fps: number}} */ count) {
  const start = film.borders[index - 1] ?? 0
  const next = film.borders[index]
  if (next === undefined && film.length === null) return `${time(start, count)} to the end`
  const end = next ?? film.shown
  return count.unit === "seconds" ? `${time(start, count)} to ${time(end, count)}` : `${start}-${end - 1}`
}

/** Where a cut is, for the one who moves it. */
export function tellCut(/** @type {Film} */ film, /** @type {number} */ index, /** @type {number} */ frame, /** @type {{fps: number}} */ count) {
  const inside = film.snaps ? `, latent frame ${latentOf(film.rule, frame)}` : ""
  return `Cut ${index + 1}: ${place(frame, count)}${inside}.`
}

/** What is worth knowing while nothing is moved. */
export function tellFilm(/** @type {Film} */ film, /** @type {string} */ family) {
  if (film.problem) return film.problem
  const moved = film.cuts.flatMap((cut, i) => (cut === film.borders[i] ? [] : [`cut ${i + 1} from frame ${cut} to ${film.borders[i]}`]))
  if (moved.length) return `${family} can only cut between the frames it joins: it moves ${moved.join(", ")}.`
  const count = `${film.cuts.length + 1} ${film.cuts.length ? "shots" : "shot"}`
  if (!film.snaps) return `${count}. Choose a family to see where that model can cut.`
  const lengths = film.rule.lengths[0] > 1 ? ` ${family} makes videos of ${lengthsName(film.rule)} frames.` : ""
  return `${count}.${lengths}${film.length === null ? " The video's length is not set." : ""}`
}

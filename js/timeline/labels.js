// @ts-check
// What the timeline says, in words: for eyes, for screen readers, and the same in both.

import { seconds } from "./times.js"
import { lengthsName, latentOf } from "./time_rules.js"
import { say } from "../lib/words.js"

/** @typedef {import("./film.js").Film} Film */

/** Frames as a person counts here: 29 or 1.8 s. */
export function time(/** @type {number} */ frames, /** @type {{unit: string, fps: number}} */ { unit, fps }) {
  return unit === "seconds" ? say("{time} s", { time: seconds(frames, fps) }) : String(frames)
}

/** Both ways of counting: frame 29 (1.8 s). */
export function place(/** @type {number} */ frame, /** @type {{fps: number}} */ { fps }) {
  return say("frame {frame} ({time} s)", { frame, time: seconds(frame, fps) })
}

export function shotName(/** @type {Film} */ film, /** @type {number} */ index) {
  return film.names[index] ? `${index + 1} ${film.names[index]}` : `${index + 1}`
}

/** First and last frame of a shot, and how long it is. */
export function span(/** @type {Film} */ film, /** @type {number} */ index, /** @type {{unit: string, fps: number}} */ count) {
  const start = film.borders[index - 1] ?? 0
  const next = film.borders[index]
  if (next === undefined && film.length === null) return say("{start} to the end", { start: time(start, count) })
  const end = next ?? film.shown
  return count.unit === "seconds" ? say("{start} to {end}", { start: time(start, count), end: time(end, count) }) : `${start}-${end - 1}`
}

/** Where a cut is, for the one who moves it. */
export function tellCut(/** @type {Film} */ film, /** @type {number} */ index, /** @type {number} */ frame, /** @type {{fps: number}} */ count) {
  const told = { cut: index + 1, place: place(frame, count), latent: latentOf(film.rule, frame) }
  return film.snaps ? say("Cut {cut}: {place}, latent frame {latent}.", told) : say("Cut {cut}: {place}.", told)
}

/** What is worth knowing while nothing is moved. */
export function tellFilm(/** @type {Film} */ film, /** @type {string} */ family) {
  if (film.problem) return film.problem
  const moved = film.cuts.flatMap((cut, i) => (cut === film.borders[i] ? [] : [say("cut {cut} from frame {frame} to {border}", { cut: i + 1, frame: cut, border: film.borders[i] })]))
  if (moved.length) return say("{family} can only cut between the frames it joins: it moves {moved}.", { family, moved: moved.join(", ") })
  const said = [film.cuts.length ? say("{count} shots.", { count: film.cuts.length + 1 }) : say("1 shot.")]
  if (!film.snaps) said.push(say("Choose a family to see where that model can cut."))
  else {
    if (film.rule.lengths[0] > 1) said.push(say("{family} makes videos of {lengths} frames.", { family, lengths: lengthsName(film.rule) }))
    if (film.length === null) said.push(say("The video's length is not set."))
  }
  return said.join(" ")
}

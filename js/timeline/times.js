// @ts-check
// Times as people type them, "29, 57" or "1.8s, 3.5s", to frames of the film and back. The rules are moc/shots/cuts.py's.

import { DIGITS, MOST_FRAMES, shown, toNumber } from "../lib/typed.js"
import { say } from "../lib/words.js"

const WORD = new RegExp(`^([+-]?[${DIGITS}]+(?:\\.[${DIGITS}]+)?)([sf]?)$`)

/** Half a frame goes to the even one, as Python rounds. */
export function roundHalfEven(/** @type {number} */ value) {
  const low = Math.floor(value)
  return value - low === 0.5 ? low + Math.abs(low % 2) : Math.round(value)
}

/**
 * One number and its frames. A trailing s or f wins over the unit.
 * @param {string} word @param {string} unit "frames" or "seconds" @param {number} fps
 */
export function readTime(word, unit, fps) {
  const match = WORD.exec(word.toLowerCase())
  if (!match) throw new Error(say("“{word}” is not a number: write cuts like 49, 97 or 2.5s, 4s.", { word: shown(word) }))
  const number = toNumber(match[1])
  const seconds = match[2] === "s" || (unit === "seconds" && match[2] !== "f")
  const frames = seconds ? number * fps : number
  if (!(Math.abs(frames) <= MOST_FRAMES)) throw new Error(say("“{word}” is beyond frame {most}: no video is that long.", { word: shown(word), most: MOST_FRAMES }))
  if (!seconds && !Number.isInteger(frames)) throw new Error(say("“{word}” is not a whole frame number: write seconds as {word}s.", { word: shown(word) }))
  return { word, suffix: match[2], frames: roundHalfEven(frames) }
}

/** @param {string} text @param {string} unit @param {number} fps */
export function readTimes(text, unit, fps) {
  const words = text.split(/[,;\s]+/).filter(Boolean)
  return words.map((word) => readTime(word, unit, fps))
}

/** The shortest way to write a number of seconds that is read back as exactly these frames. */
export function seconds(/** @type {number} */ frames, /** @type {number} */ fps) {
  for (let digits = 0; digits < 9; digits++) {
    const text = (frames / fps).toFixed(digits)
    if (roundHalfEven(Number(text) * fps) === frames) return text.includes(".") ? text.replace(/\.?0+$/, "") : text
  }
  return String(frames / fps)
}

/**
 * Frames as a word: with a suffix it says its own unit, without it counts in `unit`.
 * @param {number} frames @param {string} unit @param {number} fps @param {string} suffix "s", "f" or ""
 */
export function writeTime(frames, unit, fps, suffix = "") {
  const inSeconds = suffix === "s" || (unit === "seconds" && suffix !== "f")
  return (inSeconds ? seconds(frames, fps) : String(frames)) + suffix
}

/**
 * Frames in place of those in a text. What did not change keeps its wording.
 * @param {number[]} list @param {string} before the text that these replace @param {string} unit @param {number} fps
 */
export function writeTimes(list, before, unit, fps) {
  /** @type {ReturnType<typeof readTime>[]} */
  let old = []
  try {
    old = readTimes(before, unit, fps)
  } catch {} // what cannot be read has no wording to keep
  const suffix = old.length && old.every((time) => time.suffix === old[0].suffix) ? old[0].suffix : ""
  const words = list.map((frames) => old.find((time) => time.frames === frames)?.word ?? writeTime(frames, unit, fps, suffix))
  return words.join(before.trim().includes("\n") ? "\n" : ", ")
}

// @ts-check
// The widgets of MoC Shots as a film: its cuts, its length and what every shot says. It reads them as nodes/widgets/shots.py does.

import { readPrompt } from "./prompts.js"
import { readTime, readTimes } from "./times.js"
import { EVERY_FRAME, frames, latentFrames, nearest, whole } from "./time_rules.js"
import { say } from "../lib/words.js"

/**
 * @typedef {{how: string, times: string, unit: string, fps: number, shot_count: number, prompt: string, length: number,
 *   family: string}} Widgets the node's inputs; length 0: nobody said
 * @typedef {{cuts: number[], even: number, length: number | null, texts: string[], common: string, names: string[]}} Told
 *   shots as a run of the node tells them
 * @typedef {{rules: Record<string, import("./time_rules.js").TimeRule>, linked: string[], ran: Told | null,
 *   detected: Told | null}} Known what else there is to know: families, inputs that come from other nodes, the last run
 * @typedef {{cuts: number[], length: number | null, texts: string[], names: string[], common: string}} Draft
 *   texts and names: one per shot
 * @typedef {Draft & {borders: number[], shown: number, rule: import("./time_rules.js").TimeRule, snaps: boolean,
 *   canCut: boolean, canWrite: boolean, problem: string, open: boolean, uneven: boolean}} Film
 *   borders: where the model cuts for every cut; shown: frames drawn; snaps: a model family is chosen;
 *   open: the last shot ends where the film does; uneven: there are not as many texts as shots
 */

const USUAL_LENGTH = 81
const READS = {
  cuts: ["how", "times", "unit", "fps", "length"],
  durations: ["how", "times", "unit", "fps", "length"],
  "equal shots": ["how", "shot_count", "length"],
  prompt: ["how", "prompt", "times", "unit", "fps", "length"],
  detected: ["how", "length"],
}

/** First frame of every shot but the first, when they last so long; and the end of the last. */
const pile = (/** @type {number[]} */ durations) => {
  let end = 0
  const ends = durations.map((one) => (end += one))
  return { cuts: ends.slice(0, -1), length: end }
}

/** Where so many equal shots begin, without the first: equal in latent frames, as sampling makes them. */
export function evenCuts(/** @type {import("./time_rules.js").TimeRule} */ rule, /** @type {number} */ even, /** @type {number} */ length) {
  const latents = latentFrames(rule, length)
  return Array.from({ length: even - 1 }, (_, i) => frames(rule, Math.floor(((i + 1) * latents) / even)))
}

/** A list of one text per shot: what is missing is empty, what is too much belongs to the last. */
export function fit(/** @type {string[]} */ list, /** @type {number} */ count) {
  if (list.length > count) return [...list.slice(0, count - 1), list.slice(count - 1).filter(Boolean).join("\n")]
  return [...list, ...Array(count - list.length).fill("")]
}

/**
 * @param {Widgets} widgets @param {Known} known
 * @returns {Film}
 */
export function readFilm(widgets, known) {
  const rule = known.rules[widgets.family] ?? EVERY_FRAME
  const asked = /** @type {Record<string, string[]>} */ (READS)[widgets.how] ?? []
  const elsewhere = asked.find((name) => known.linked.includes(name))
  const film = {
    ...{ cuts: /** @type {number[]} */ ([]), length: /** @type {number | null} */ (widgets.length || null) },
    ...{ texts: /** @type {string[]} */ ([]), names: /** @type {string[]} */ ([]), common: "" },
    ...{ borders: /** @type {number[]} */ ([]), shown: 0, rule, snaps: widgets.family in known.rules },
    ...{ canCut: !elsewhere, canWrite: !known.linked.includes("prompt"), problem: "", open: true, uneven: false },
  }
  /** @type {import("./prompts.js").ShotPrompt} */
  let said = { common: "", texts: [""], names: [""], durations: [""], bars: false }
  let even = 0
  /** @type {Told | null} */
  let told = null
  try {
    if (film.canWrite) said = readPrompt(widgets.prompt)
    if (elsewhere) {
      told = known.ran
      if (!told) film.problem = say("{input} comes from another node: run once to see the shots.", { input: elsewhere })
    } else if (widgets.how === "cuts") film.cuts = readTimes(widgets.times, widgets.unit, widgets.fps).map((time) => time.frames)
    else if (widgets.how === "durations") timed(film, readTimes(widgets.times, widgets.unit, widgets.fps))
    else if (widgets.how === "equal shots") even = widgets.shot_count
    else if (widgets.how === "prompt") even = readTimed(film, widgets, said)
    else if (widgets.how === "detected") {
      told = known.detected
      if (!told) film.problem = say("Connect shots to detected and run once to see them here.")
    }
    if (widgets.how !== "prompt" && said.durations.some(Boolean)) {
      throw new Error(say("The prompt's marks hold durations: set how to prompt, or take the durations out of the marks."))
    }
  } catch (error) {
    film.problem = String(/** @type {Error} */ (error).message)
    film.canCut = film.canWrite = false
  }
  if (told) {
    Object.assign(film, { cuts: told.cuts, length: film.length ?? told.length })
    even = told.even
  }
  film.shown = film.length ?? whole(rule, Math.max(USUAL_LENGTH, frames(rule, even), Math.ceil((film.cuts.at(-1) ?? 0) * 1.25)))[1]
  if (even) {
    const latents = latentFrames(rule, film.shown)
    if (even > latents) film.problem ||= say("{count} shots do not fit into {latents} latent frames: use fewer shots.", { count: even, latents })
    else film.cuts = evenCuts(rule, even, film.shown)
  }
  wording(film, widgets.how, said, told)
  film.problem ||= wrong(film)
  const last = film.length === null ? Infinity : frames(rule, Math.max(latentFrames(rule, film.length) - 1, 1))
  film.borders = film.cuts.map((cut) => (cut > 0 ? Math.min(nearest(rule, cut)[1], last) : 0)) // the end is no place for a cut
  film.problem ||= crowded(film)
  return film
}

function lasting(/** @type {{frames: number}[]} */ times) {
  if (!times.length) throw new Error(say("No durations given: write one number per shot into times, like 49, 48, 32."))
  const short = times.findIndex((time) => time.frames < 1)
  if (short >= 0) throw new Error(say("Shot {shot} lasts {frames} frames; every shot needs at least 1.", { shot: short + 1, frames: times[short].frames }))
  return pile(times.map((time) => time.frames))
}

/**
 * Shots that last so long, to the end of the film.
 * @param {{cuts: number[], length: number | null, open: boolean, problem: string}} film @param {{frames: number}[]} times
 */
function timed(film, times) {
  const { cuts, length } = lasting(times)
  if (film.length !== null && film.length !== length) {
    film.problem = say("The shots last {sum} frames together, but length is {length}: change one of them, or set length to 0.", { sum: length, length: film.length })
  }
  Object.assign(film, { cuts, length, open: false })
}

/**
 * The shots of a prompt; the number of equal ones where nobody said how long they last.
 * @param {{cuts: number[], length: number | null, open: boolean, problem: string}} film @param {Widgets} widgets
 * @param {import("./prompts.js").ShotPrompt} said
 */
function readTimed(film, { times, unit, fps, prompt }, { durations, texts }) {
  if (!prompt.trim()) throw new Error(say("The prompt is empty: write one text per shot with [shot cut] between, or choose another how."))
  if (durations.some(Boolean)) {
    if (times.trim()) throw new Error(say("Both the prompt's marks and times hold durations: empty times, or take them out of the marks."))
    const missing = durations.slice(0, -1).findIndex((time) => !time)
    if (missing >= 0) throw new Error(say("Shot {shot} has no duration, but others have: write its mark like [shot {shot}: 3s].", { shot: missing + 1 }))
    const list = durations.filter(Boolean).map((time) => readTime(time, "frames", fps))
    const { cuts, length } = lasting(list)
    if (list.length < durations.length) film.cuts = [...cuts, length]
    else timed(film, list)
    return 0
  }
  if (!times.trim()) return texts.length
  const list = readTimes(times, unit, fps)
  if (list.length !== texts.length) throw new Error(say("{texts} shot texts for {durations} durations: make them as many.", { texts: texts.length, durations: list.length }))
  timed(film, list)
  return 0
}

/**
 * Who says what, one text and name per shot.
 * @param {Draft & {problem: string, canWrite: boolean, uneven: boolean}} film @param {string} how
 * @param {import("./prompts.js").ShotPrompt} said @param {Told | null} told
 */
function wording(film, how, said, told) {
  const count = film.cuts.length + 1
  let { common, texts, names } = said
  if (how !== "prompt" && (texts.length === 1 || (said.bars && texts.length !== count)) && !names.some(Boolean)) {
    common = [common, texts.join(" | ")].filter(Boolean).join("\n") // there are no shots in it
    texts = []
  }
  if (told && (!film.canWrite || !(common || texts.length))) ({ common, texts, names } = told)
  film.uneven = texts.length > 0 && texts.length !== count
  if (film.uneven) film.problem ||= `${texts.length} shot texts for ${count} shots: add or remove cuts or texts.`
  Object.assign(film, { common, texts: fit(texts, count), names: fit(names, count).map((name) => name.replaceAll("\n", " ")) })
}

function wrong(/** @type {Draft} */ { cuts, length }) {
  const late = cuts.findIndex((cut, i) => cut <= (cuts[i - 1] ?? 0))
  if (late >= 0 && cuts[late] <= 0) return say("Cut {cut} is at frame {frame}: the first shot starts at 0, so cuts start at frame 1.", { cut: late + 1, frame: cuts[late] })
  if (late >= 0) return say("Cut {cut} (frame {frame}) does not come after frame {before}: put the cuts in order.", { cut: late + 1, frame: cuts[late], before: cuts[late - 1] })
  const last = cuts.at(-1)
  if (last !== undefined && length !== null && last >= length) return say("The last cut is at frame {last}, but the video ends at frame {length}.", { last, length })
  return ""
}

function crowded(/** @type {Pick<Film, "borders" | "cuts" | "rule">} */ { borders, cuts, rule }) {
  const close = borders.findIndex((border, i) => border <= (borders[i - 1] ?? 0))
  if (close < 0) return ""
  return say("Shot {shot} is too short for this model: the cut at frame {frame} joins the one before; leave at least {least} frames between cuts.", {
    ...{ shot: close + 1, frame: cuts[close], least: Math.max(...rule.repeat) },
  })
}

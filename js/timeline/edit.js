// @ts-check
// What a person does to a film on the timeline, and the widget values that say the same. Nothing is kept beside the widgets.

import { evenCuts, fit, readFilm } from "./film.js"
import { readPrompt, writePrompt } from "./prompts.js"
import { readTime, writeTime, writeTimes } from "./times.js"
import { frames, latentFrames, latentOf, nearest, whole } from "./time_rules.js"
import { say } from "../lib/words.js"

/**
 * @typedef {import("./film.js").Film} Film
 * @typedef {import("./film.js").Draft} Draft
 * @typedef {import("./film.js").Widgets} Widgets
 */

/** The first and the last frame that a cut can be moved to: every shot keeps a latent frame of its own. */
export function limits(/** @type {Film} */ film, /** @type {number} */ index) {
  const before = index ? latentOf(film.rule, film.borders[index - 1]) + 1 : 1
  const next = film.borders[index + 1]
  const behind = (next === undefined ? latentFrames(film.rule, film.shown) : latentOf(film.rule, next)) - 1
  return [frames(film.rule, before), frames(film.rule, Math.max(behind, before))]
}

/** The border nearest to a frame that this cut can be moved to. */
export function place(/** @type {Film} */ film, /** @type {number} */ index, /** @type {number} */ frame) {
  const [low, high] = limits(film, index)
  return Math.min(Math.max(nearest(film.rule, Math.max(Math.round(frame), 0))[1], low), high)
}

/** Where a cut goes by so many borders; the first step of one that stands between borders leads to the next. */
export function step(/** @type {Film} */ film, /** @type {number} */ index, /** @type {number} */ borders) {
  const latent = latentOf(film.rule, film.cuts[index])
  const between = frames(film.rule, latent) !== film.cuts[index]
  return place(film, index, frames(film.rule, Math.max(latent + borders + (between && borders < 0 ? 1 : 0), 0)))
}

export function moveCut(/** @type {Film} */ film, /** @type {number} */ index, /** @type {number} */ frame) {
  return { ...film, cuts: film.cuts.map((cut, i) => (i === index ? frame : cut)) }
}

/** Every frame that can get a cut, nearest first. */
function free(/** @type {Film} */ film, /** @type {number} */ frame) {
  const latents = latentFrames(film.rule, film.shown)
  const taken = new Set(film.borders)
  let best = -1
  for (let latent = 1; latent < latents; latent++) {
    const border = frames(film.rule, latent)
    if (!taken.has(border) && (best < 0 || Math.abs(border - frame) < Math.abs(best - frame))) best = border
  }
  return best
}

/**
 * A new cut at the possible place nearest to a frame; null where there is none.
 * @param {Film} film @param {number} frame
 * @returns {{draft: Draft, index: number} | null}
 */
export function addCut(film, frame) {
  const cut = free(film, frame)
  if (cut < 0) return null
  const index = film.borders.filter((border) => border < cut).length
  const insert = (/** @type {any[]} */ list, /** @type {number} */ at, /** @type {any} */ value) => [...list.slice(0, at), value, ...list.slice(at)]
  return {
    index,
    draft: {
      ...film,
      cuts: insert(film.cuts, index, cut),
      texts: insert(film.texts, index + 1, ""),
      names: insert(film.names, index + 1, ""),
    },
  }
}

/** Without a cut: the shot behind it becomes part of the one before. */
export function removeCut(/** @type {Film} */ film, /** @type {number} */ index) {
  const join = (/** @type {string[]} */ list, /** @type {(a: string, b: string) => string} */ how) =>
    list.flatMap((text, i) => (i === index ? [how(text, list[i + 1])] : i === index + 1 ? [] : [text]))
  return {
    ...film,
    cuts: film.cuts.filter((_, i) => i !== index),
    texts: join(film.texts, (a, b) => [a, b].filter(Boolean).join(" ")),
    names: join(film.names, (a, b) => a || b),
  }
}

/** A film of another length: one that the model can make, with room for the last shot. 0: nobody says how long it is. */
export function setLength(/** @type {Film} */ film, /** @type {number} */ length) {
  if (!(length >= 1)) return { ...film, length: film.open ? null : film.length }
  const least = (film.borders.at(-1) ?? 0) + 1
  const [below, above] = whole(film.rule, Math.max(Math.round(length), least))
  return { ...film, length: below >= least && length - below <= above - length ? below : above }
}

/** Other shots in place of these; what is written stays where nothing comes with them. */
export function takeShots(/** @type {Film} */ film, /** @type {import("./film.js").Told} */ told) {
  const cuts = told.even ? evenCuts(film.rule, told.even, told.length ?? film.shown) : told.cuts
  const count = cuts.length + 1
  const own = (/** @type {string[]} */ list, /** @type {string[]} */ theirs) => fit(list.some(Boolean) ? list : theirs, count)
  return {
    ...film,
    cuts,
    length: told.length ?? film.length,
    texts: own(film.texts, told.texts),
    names: own(film.names, told.names),
    common: film.common || told.common,
  }
}

/** A name as a mark can hold it. */
export const cleanName = (/** @type {string} */ name) => name.replace(/["“”[\]\s]+/g, " ").trim()

/**
 * The widget values that say what the draft says; only those that differ.
 * @param {Widgets} widgets what they are now @param {Film} film what that means @param {Draft} draft
 * @param {import("./film.js").Known} known
 * @returns {Partial<Widgets>}
 */
export function toWidgets(widgets, film, draft, known) {
  const cutsDiffer = draft.cuts.join() !== film.cuts.join()
  const lengthDiffers = draft.length !== film.length
  /** @type {Partial<Widgets>} */
  const out = {}
  const timed = widgets.how === "prompt"
  let durations = film.canWrite ? readPrompt(widgets.prompt).durations : []
  if (cutsDiffer || lengthDiffers) {
    const { unit, fps } = widgets
    const end = draft.length ?? film.shown
    const lasts = [...draft.cuts, end].map((cut, i) => cut - (draft.cuts[i - 1] ?? 0))
    if (widgets.length || film.open) out.length = draft.length ?? 0
    if (widgets.how === "durations" || (timed && widgets.times.trim())) {
      out.times = writeTimes(lasts, widgets.times, unit, fps)
    } else if (timed) {
      if (durations.some(Boolean) || cutsDiffer) durations = [...markTimes(film.open ? lasts.slice(0, -1) : lasts, durations, widgets), ...(film.open ? [""] : [])]
    } else if (cutsDiffer) {
      out.times = writeTimes(draft.cuts, widgets.how === "cuts" ? widgets.times : "", unit, fps)
      out.how = "cuts"
    }
  }
  const said = readFilm({ ...widgets, ...out }, known)
  if (film.canWrite && !(says(said, draft) && !said.uneven && (!timed || same(durations, readPrompt(widgets.prompt).durations)))) {
    const { texts, names, common } = draft
    const plain = !timed && !texts.some(Boolean) && !names.some(Boolean)
    out.prompt = plain ? common : writePrompt({ common, texts, names, durations: timed ? durations : texts.map(() => "") })
    if (!says(readFilm({ ...widgets, ...out }, known), draft)) {
      throw new Error(say("Marks like [shot 2] or a bar | in a text make shots of their own: write such a prompt into the prompt field."))
    }
  }
  return Object.fromEntries(Object.entries(out).filter(([name, value]) => value !== widgets[/** @type {keyof Widgets} */ (name)]))
}

const same = (/** @type {string[]} */ a, /** @type {string[]} */ b) => JSON.stringify(a) === JSON.stringify(b)

/** Whether a film has the draft's words, not counting spaces around them. */
function says(/** @type {Film} */ film, /** @type {Draft} */ draft) {
  const words = (/** @type {Draft} */ { texts, names, common }) => [...texts, common, ...names].map((text) => text.trim())
  return same(words(film), words(draft))
}

/** Durations as marks hold them: with a unit, in the wording they had. */
function markTimes(/** @type {number[]} */ lasts, /** @type {string[]} */ before, /** @type {Widgets} */ { unit, fps }) {
  const old = before.filter(Boolean).map((word) => readTime(word, "frames", fps))
  const suffix = old[0]?.suffix || unit[0]
  return lasts.map((one) => old.find((time) => time.frames === one)?.word ?? writeTime(one, unit, fps, suffix))
}

// @ts-check
// Prompts of several shots in the forms that people write them in, as moc/shots/prompts.py reads and writes them.

import { DIGITS, shown, toNumber } from "../lib/typed.js"
import { say } from "../lib/words.js"

/**
 * @typedef {{common: string, texts: string[], names: string[], durations: string[], bars: boolean}} ShotPrompt
 * One text, name and duration ("3s", "48f", "" for none) per shot; bars: separated by | and not by marks.
 */

const BRACKETS = /\[([^[\]]*)\]/g // first these, then what they hold: reading takes as long as the text is
const MARK = new RegExp(
  String.raw`^\s*(?:(?<common>(?:global|common)(?:\s+(?:caption|prompt))?)|(?<each>per[\s-]*shot(?:\s*(?:caption|prompt)s?)?)|` +
    String.raw`(?<cut>(?:shot[\s-]*)?cut)|(?<shot>shot)\s*(?<number>[${DIGITS}]+)?|(?<bare>[${DIGITS}]+))`,
  "i",
)
const FACT = new RegExp(
  String.raw`[\s:,;]*(?:["“”](?<name>[^"“”]*)["“”]|(?<time>[${DIGITS}]+(?:\.[${DIGITS}]+)?)\s*(?<unit>f|frames?|s|secs?|seconds?)\b)`,
  "iy",
)

/**
 * A mark with its name and duration; null where the brackets are no mark of ours, like [shot on film] or [1girl].
 * @param {RegExpMatchArray} bracket
 */
function readMark(bracket) {
  const [text, inner] = bracket
  const match = MARK.exec(inner)
  if (!match) return null
  const groups = /** @type {Record<string, string | undefined>} */ (match.groups)
  let [at, name, time] = [match[0].length, "", ""]
  const next = () => {
    FACT.lastIndex = at
    return FACT.exec(inner)
  }
  for (let fact = next(); fact; fact = next()) {
    const found = /** @type {Record<string, string | undefined>} */ (fact.groups)
    if ((name && found.name) || (time && found.time)) throw new Error(say("The mark {mark} says the same thing twice: take one out.", { mark: shown(text) }))
    name ||= (found.name ?? "").trim()
    time ||= found.time ? `${found.time}${found.unit?.[0].toLowerCase()}` : ""
    at += fact[0].length
  }
  const rest = inner.slice(at).trim()
  const start = bracket.index ?? 0
  const number = toNumber(groups.number ?? groups.bare ?? "0")
  if (/^[\s:,;]*$/.test(rest)) return { text: shown(text), start, end: start + text.length, groups, number, name, time }
  if (groups.number || (groups.cut && /^[:,"]/.test(rest))) {
    throw new Error(say('The mark {mark} has more than a name and a duration in it: write it like [shot 2 "the door": 3s].', { mark: shown(text) }))
  }
  return null
}

/** At every | that stands in no brackets. */
function splitBars(/** @type {string} */ text) {
  const parts = [""]
  let [depth, escaped] = [0, false]
  for (const letter of text) {
    if (!escaped && "([{".includes(letter)) depth++
    if (!escaped && ")]}".includes(letter)) depth = Math.max(depth - 1, 0)
    if (letter === "|" && !depth && !escaped) parts.push("")
    else parts[parts.length - 1] += letter
    escaped = letter === "\\" && !escaped
  }
  return parts.map((part) => part.trim())
}

/**
 * What a prompt says.
 * @param {string} prompt @returns {ShotPrompt}
 */
export function readPrompt(prompt) {
  let marks = [...prompt.matchAll(BRACKETS)].flatMap((bracket) => readMark(bracket) ?? [])
  if (!marks.some(({ groups, number }) => groups.bare && number === 1)) marks = marks.filter(({ groups }) => !groups.bare)
  /** @type {string[]} */
  const common = []
  /** @type {{text: string, name: string, time: string, numbered: boolean}[]} */
  let shots = []
  let inShot = false // else the text that follows is common
  let preamble = prompt.slice(0, marks[0]?.start).trim() // common, or the first shot if a cut follows
  const settle = () => {
    if (preamble) common.unshift(preamble)
    preamble = ""
  }
  marks.forEach((mark, index) => {
    const { groups, number, name, time } = mark
    const text = prompt.slice(mark.end, marks[index + 1]?.start).trim()
    if (groups.common) {
      settle()
      inShot = false
      if (name || time) throw new Error(say("The mark {mark} stands for all shots: give a name or a duration to a shot.", { mark: mark.text }))
      if (text) common.push(text)
      return
    }
    if (groups.each && shots.length) throw new Error(say("The mark {mark} comes after a shot: put it before the first one.", { mark: mark.text }))
    if (groups.cut && preamble) {
      shots.push({ text: preamble, name: "", time: "", numbered: false })
      preamble = ""
    }
    settle()
    let last = inShot ? shots[shots.length - 1] : undefined
    if (!((groups.shot || number) && last && !last.text && !last.numbered)) {
      last = { text: "", name: "", time: "", numbered: false } // but [shot cut] [shot 2] is one border
      shots.push(last)
    }
    if (number && number !== shots.length) {
      throw new Error(say("The mark {mark} stands where shot {shot} begins: number the shots 1, 2, 3 in order.", { mark: mark.text, shot: shots.length }))
    }
    if ((name && last.name) || (time && last.time)) throw new Error(say("The mark {mark} says again what the mark before it says.", { mark: mark.text }))
    Object.assign(last, { name: last.name || name, time: last.time || time, numbered: Boolean(number), text })
    inShot = true
  })
  const marked = shots.length > 0
  if (!marked) shots = [{ text: preamble, name: "", time: "", numbered: false }]
  const bars = shots.length === 1 ? splitBars(shots[0].text) : []
  if (bars.length > 1) {
    shots = bars.map((text, i) => ({ ...(i ? { name: "", time: "", numbered: false } : shots[0]), text }))
  }
  if (!marked && common.length && !shots[0].text) {
    shots[0].text = common.splice(0).join("\n") // [global] alone: one shot
  }
  return {
    common: common.join("\n"),
    texts: shots.map(({ text }) => text),
    names: shots.map(({ name }) => name),
    durations: shots.map(({ time }) => time),
    bars: bars.length > 1,
  }
}

/** The prompt with its marks, which `readPrompt` reads back. */
export function writePrompt(/** @type {Omit<ShotPrompt, "bars">} */ { common, texts, names, durations }) {
  if (texts.length === 1 && !common && !names.some(Boolean) && !durations.some(Boolean)) return texts[0]
  const lines = texts.map((text, i) => {
    const facts = (names[i] ? ` "${names[i]}"` : "") + (durations[i] ? `: ${durations[i]}` : "")
    return `[shot ${i + 1}${facts}] ${text}`.trim()
  })
  return [...(common ? [`[global] ${common}`.trim()] : []), ...lines].join("\n")
}

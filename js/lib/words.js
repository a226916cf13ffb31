// @ts-check
// The pack's words in the language of the page. English ones stand in the code and are the keys; the others are in
// locales/<language>/main.json under "mixture_of_contexts".

/** @typedef {{words: Record<string, string>, choices: Record<string, string>, sentences: Record<string, string>}} Words */

/** @type {() => Partial<Words>} */
let current = () => ({})

/** From now on words come from what this returns, asked anew for every word: the language may change. */
export function speak(/** @type {() => Partial<Words>} */ source) {
  current = source
}

const put = (/** @type {string} */ text, /** @type {Record<string, unknown>} */ values) => text.replace(/\{(\w+)\}/g, (hole, name) => String(values[name] ?? hole))

/**
 * A sentence in the page's language; {name} stands for a value.
 * @param {string} english @param {Record<string, unknown>} values
 */
export function say(english, values = {}) {
  return put(current().words?.[english] ?? english, values)
}

/** One of a combo box's choices, which workflows save in English. */
export function sayChoice(/** @type {string} */ choice) {
  return current().choices?.[choice] ?? choice
}

/** What the server wrote in English, sentence by sentence; what no template fits stays as it is. */
export function sayReport(/** @type {string} */ text) {
  const known = Object.entries(current().sentences ?? {})
  const phrases = known.filter(([english]) => !english.endsWith(".")).sort(([a], [b]) => b.length - a.length)
  const inside = (/** @type {string} */ part) => phrases.reduce((told, [english, own]) => told.replaceAll(english, own), part)
  const one = (/** @type {string} */ sentence) => {
    for (const [english, own] of known) {
      const found = pattern(english).exec(sentence)
      if (found) return put(own, Object.fromEntries(Object.entries(found.groups ?? {}).map(([name, part]) => [name, inside(part)])))
    }
    return sentence
  }
  const line = (/** @type {string} */ words) => words.split(/(?<=\.) (?=[A-Z])/).map(one).join(" ")
  return text.split("\n").map(line).join("\n")
}

/** A template with its holes as groups. */
function pattern(/** @type {string} */ english) {
  const plain = english.replace(/[.*+?^$()|[\]\\]/g, "\\$&")
  return new RegExp(`^${plain.replace(/\{(\w+)\}/g, "(?<$1>.+?)")}$`)
}

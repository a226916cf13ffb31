// @ts-check
// Below the timeline: a card per shot with its name and what happens in it, and one with what belongs to all shots.

import { cleanName } from "./edit.js"
import { make } from "../heatmap/style.js"
import { say } from "../lib/words.js"

/** @typedef {import("./film.js").Film} Film */
/** @typedef {import("./film.js").Draft} Draft */

const put = (/** @type {string[]} */ list, /** @type {number} */ at, /** @type {string} */ text) => list.map((old, i) => (i === at ? text : old))

export class Cards {
  /** @param {(edit: (film: Film) => Draft) => boolean} write says whether it could be written @param {() => void} done */
  constructor(write, done) {
    this.write = write
    this.done = done
    this.common = this.text(say("What belongs to all shots"), (text) => (film) => ({ ...film, common: text }))
    this.all = make("label", { className: "all" }, say("All shots"), this.common)
    this.shots = make("ul", { className: "cards" })
    this.element = make("div", { className: "words" }, this.all, this.shots)
    /** @type {{card: HTMLLIElement, name: HTMLInputElement, text: HTMLTextAreaElement}[]} */
    this.list = []
  }

  /**
   * A field that writes while one types; leaving it makes that one step for undo. A text that cannot be written stays
   * in its field, marked.
   * @template {HTMLInputElement | HTMLTextAreaElement} T
   * @param {T} field @param {(text: string) => (film: Film) => Draft} edit @returns {T}
   */
  bind(field, edit) {
    field.addEventListener("input", () => {
      field.setAttribute("aria-invalid", String(!this.write(edit(field.value))))
    })
    field.addEventListener("change", () => this.done())
    return field
  }

  text(/** @type {string} */ label, /** @type {(text: string) => (film: Film) => Draft} */ edit) {
    return this.bind(make("textarea", { "aria-label": label, placeholder: label }), edit)
  }

  add() {
    const index = this.list.length
    const name = this.bind(
      make("input", { type: "text", placeholder: say("name"), "aria-label": say("Name of shot {shot}", { shot: index + 1 }) }),
      (text) => (film) => ({ ...film, names: put(film.names, index, cleanName(text)) }),
    )
    const text = this.text(say("What happens in shot {shot}", { shot: index + 1 }), (words) => (film) => ({ ...film, texts: put(film.texts, index, words) }))
    const card = make("li", {}, make("label", {}, `${index + 1}`, name), text)
    this.shots.append(card)
    this.list.push({ card, name, text })
  }

  draw(/** @type {Film} */ film) {
    while (this.list.length < film.texts.length) this.add()
    while (this.list.length > film.texts.length) this.list.pop()?.card.remove()
    const only = film.texts.length === 1
    show(this.common, film.common, !film.canWrite)
    this.all.hidden = only && !film.common && Boolean(film.texts[0])
    this.list.forEach((one, i) => {
      const frames = (film.borders[i] ?? film.shown) - (film.borders[i - 1] ?? 0)
      one.card.style.flexGrow = String(Math.max(frames, 1))
      show(one.name, film.names[i], !film.canWrite)
      show(one.text, film.texts[i], !film.canWrite)
      one.text.hidden = only && !film.texts[0] // what a film of one shot says belongs to all
    })
  }

  /** Scrolls to the card of a shot, and nothing else. */
  reveal(/** @type {number} */ shot) {
    const card = this.list[shot]?.card
    if (!card) return
    const left = card.offsetLeft - this.shots.offsetLeft
    if (left < this.shots.scrollLeft || left + card.offsetWidth > this.shots.scrollLeft + this.shots.clientWidth) this.shots.scrollLeft = left
  }

  /** Lets go of what could not be written. */
  forget() {
    for (const field of this.element.querySelectorAll("[aria-invalid=true]")) field.removeAttribute("aria-invalid")
  }
}

/** What is being typed, or could not be written, stays. */
function show(/** @type {HTMLInputElement | HTMLTextAreaElement} */ field, /** @type {string} */ value, /** @type {boolean} */ locked) {
  field.readOnly = locked
  if (document.activeElement !== field && field.getAttribute("aria-invalid") !== "true" && field.value !== value) field.value = value
}

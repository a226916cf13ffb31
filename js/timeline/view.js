// @ts-check
// The timeline on MoC Shots: a view of the node's text inputs. What a person does here is written into them, once when
// it is finished, and nothing is kept beside them.

import { child, fill, svg } from "../lib/dom.js"
import { readFilm } from "./film.js"
import { addCut, limits, moveCut, place, removeCut, setLength, step, takeShots, toWidgets } from "./edit.js"
import { readTime, writeTime } from "./times.js"
import { frames, latentOf } from "./time_rules.js"
import { make } from "../heatmap/style.js"
import { Cards } from "./cards.js"
import { say, sayChoice } from "../lib/words.js"
import { addStyle } from "./style.js"
import { place as tellPlace, shotName, span, tellCut, tellFilm, time } from "./labels.js"

/** @typedef {import("./film.js").Film} Film */
/** @typedef {import("./film.js").Draft} Draft */

const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }
const MOST_TICKS = 400
const LABELS = 5

export class TimelineView {
  /**
   * @param {{read: () => [import("./film.js").Widgets, import("./film.js").Known],
   *   write: (changes: Record<string, any>, finished: boolean) => void, finish: () => void}} host
   *   write: finished changes are one step for undo; finish: what was written before is one
   */
  constructor(host) {
    addStyle()
    this.host = host
    /** The cut in somebody's hand: where it is now, and where the pointer is. */
    this.held = /** @type {{index: number, frame: number, pointer: number | null} | null} */ (null)
    this.said = "" // why the last thing could not be done
    this.build()
    this.refresh()
  }

  build() {
    this.length = make("input", { type: "text", inputMode: "decimal", placeholder: say("not set"), "aria-label": say("Length of the video") })
    this.length.addEventListener("change", () => this.changeLength())
    this.unit = make("span")
    this.plus = this.button(say("+ Cut"), say("Cut the longest shot in two"), () => this.addIn(this.longest()))
    this.take = this.button("", say("Replace these with the detected shots"), () => this.takeDetected())
    this.blocks = make("div", { "aria-hidden": "true" })
    this.ticks = svg("path")
    this.found = svg("path", { class: "found" })
    this.scale = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" })
    this.scale.append(this.ticks, this.found)
    this.marks = make("div", { "aria-hidden": "true" })
    this.cuts = make("div")
    this.track = make("div", { className: "track" }, this.blocks, this.scale, this.marks, this.cuts)
    this.ruler = make("div", { className: "ruler", "aria-hidden": "true" })
    this.status = make("output", { "aria-live": "polite" })
    this.cards = new Cards((edit) => this.apply(edit, false), () => this.host.finish())
    this.element = make(
      "div",
      { className: "mixture-of-contexts-time", role: "group", "aria-label": say("Shot timeline") },
      make("div", { className: "bar" }, make("label", {}, say("Length"), this.length), this.unit, this.plus, this.take),
      this.track,
      this.ruler,
      this.status,
      this.cards.element,
    )
    this.track.addEventListener("dblclick", (event) => {
      if (event.target === this.track) this.add(this.frameAt(event))
    })
    // the graph under the node must not drag, zoom or delete because of what happens in here
    for (const kind of ["pointerdown", "dblclick", "contextmenu"]) this.element.addEventListener(kind, (e) => e.stopPropagation())
    this.element.addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.metaKey) event.stopPropagation()
    })
    this.element.addEventListener("pointerenter", () => !this.held && this.refresh())
  }

  button(/** @type {string} */ name, /** @type {string} */ title, /** @type {() => void} */ pressed) {
    const button = make("button", { type: "button", title }, name)
    button.addEventListener("click", pressed)
    return button
  }

  // What is shown

  /** Somebody else wrote into the widgets, or a run told something. */
  changed() {
    this.said = ""
    this.refresh()
  }

  /** Reads the widgets again. */
  refresh() {
    const [widgets, known] = this.host.read()
    this.widgets = widgets
    this.known = known
    this.film = readFilm(widgets, known)
    this.draw()
  }

  /** The film as it would be if the held cut were let go. */
  seen() {
    const { film, held } = this
    if (!held) return film
    const put = (/** @type {number[]} */ list) => list.map((cut, i) => (i === held.index ? held.frame : cut))
    return { ...film, cuts: put(film.cuts), borders: put(film.borders) }
  }

  draw() {
    const film = this.seen()
    const { unit, family } = this.widgets
    const percent = (/** @type {number} */ frame) => `${(100 * Math.min(frame, film.shown)) / film.shown}%`
    if (document.activeElement !== this.length) this.length.value = film.length === null ? "" : writeTime(film.length, unit, this.widgets.fps)
    this.length.readOnly = !film.canCut
    this.unit.textContent = sayChoice(unit)
    this.plus.disabled = !film.canCut
    this.track.classList.toggle("fixed", !film.canCut)
    fill(this.blocks, film.texts.length, () => make("div", { className: "shot" }, make("b"), make("span")))
    fill(this.cuts, film.cuts.length, (index) => this.handle(index))
    const typed = film.cuts.filter((cut, i) => cut !== film.borders[i])
    if (this.held?.pointer != null && film.snaps) typed.push(this.held.pointer)
    fill(this.marks, typed.length, () => make("div", { className: "typed" }))
    typed.forEach((frame, i) => (child(this.marks, i).style.left = percent(frame)))
    film.texts.forEach((_, i) => {
      const block = child(this.blocks, i)
      block.className = `shot${i % 2 ? " odd" : ""}${i === film.cuts.length && film.length === null ? " open" : ""}`
      block.style.left = percent(film.borders[i - 1] ?? 0)
      block.style.right = `calc(100% - ${percent(film.borders[i] ?? film.shown)})`
      child(block, 0).textContent = shotName(film, i)
      child(block, 1).textContent = span(film, i, this.widgets)
    })
    film.borders.forEach((border, i) => this.drawHandle(film, border, i, percent(border)))
    this.drawScale(film)
    const { detected } = this.known
    const told = detected && this.widgets.how !== "detected" ? (detected.even || detected.cuts.length + 1) : 0
    this.take.hidden = !told
    this.take.disabled = !film.canCut
    this.take.textContent = told === 1 ? say("Use the detected shot") : say("Use the {count} detected shots", { count: told })
    const toldCut = this.held && tellCut(film, this.held.index, this.held.frame, this.widgets)
    this.status.textContent = toldCut || this.said || tellFilm(film, family)
    this.status.classList.toggle("problem", !toldCut && Boolean(this.said || film.problem))
    this.cards.draw(film)
  }

  drawHandle(/** @type {Film} */ film, /** @type {number} */ border, /** @type {number} */ i, /** @type {string} */ left) {
    const handle = child(this.cuts, i)
    const [low, high] = limits(this.film, i)
    handle.style.left = left
    handle.classList.toggle("held", this.held?.index === i)
    const facts = { "aria-valuemin": low, "aria-valuemax": high, "aria-valuenow": border, "aria-disabled": !film.canCut }
    for (const [name, value] of Object.entries(facts)) handle.setAttribute(name, String(value))
    handle.setAttribute("aria-valuetext", say("{place}, shot {shot} begins", { place: tellPlace(border, this.widgets), shot: shotName(film, i + 1) }))
  }

  /** A tick at every place where the model can cut, as long as they can be told apart. */
  drawScale(/** @type {Film} */ film) {
    this.scale.setAttribute("viewBox", `0 0 ${film.shown} 14`)
    const lines = []
    const last = latentOf(film.rule, film.shown - 1)
    if (film.snaps && last <= MOST_TICKS) for (let i = 1; i <= last; i++) lines.push(`M${frames(film.rule, i)} 3V11`)
    this.ticks.setAttribute("d", lines.join(""))
    this.found.setAttribute("d", (this.known.detected?.cuts ?? []).filter((cut) => cut < film.shown).map((cut) => `M${cut} 1V13`).join(""))
    fill(this.ruler, LABELS, () => make("span"))
    for (let i = 0; i < LABELS; i++) {
      child(this.ruler, i).textContent = time(Math.round((film.shown * i) / (LABELS - 1)), this.widgets)
    }
  }

  /** Gives the focus to what has this label. */
  focus(/** @type {string} */ label) {
    const found = [...this.element.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === label)
    if (found instanceof HTMLElement) found.focus()
  }

  // What a person does

  /** Writes a change into the widgets; whether that could be done. */
  apply(/** @type {(film: Film) => Draft} */ edit, finished = true) {
    try {
      const changes = toWidgets(this.widgets, this.film, edit(this.film), this.known)
      this.said = ""
      if (finished) this.cards.forget()
      if (Object.keys(changes).length) this.host.write(changes, finished)
      this.refresh()
      return true
    } catch (error) {
      this.said = error instanceof Error ? error.message : String(error)
      this.draw()
      return false
    }
  }

  handle(/** @type {number} */ index) {
    const handle = make("button", { type: "button", className: "cut", role: "slider", "aria-label": say("Cut {cut}", { cut: index + 1 }), "aria-orientation": "horizontal" })
    handle.addEventListener("pointerdown", (event) => {
      if (event.button || !this.film.canCut) return
      handle.setPointerCapture(event.pointerId)
      handle.focus()
      this.held = { index, frame: this.film.borders[index], pointer: null }
    })
    handle.addEventListener("pointermove", (event) => {
      if (!this.held || !handle.hasPointerCapture(event.pointerId)) return
      const pointer = this.frameAt(event)
      this.held = { index, frame: place(this.film, index, pointer), pointer }
      this.draw()
    })
    handle.addEventListener("pointerup", () => this.letGo())
    handle.addEventListener("pointercancel", () => this.letGo(false))
    handle.addEventListener("keydown", (event) => this.key(event, index))
    handle.addEventListener("keyup", (event) => event.key in STEPS && this.letGo())
    handle.addEventListener("dblclick", () => this.film.canCut && this.remove(index))
    handle.addEventListener("focus", () => this.cards.reveal(index + 1))
    handle.addEventListener("blur", () => this.letGo())
    return handle
  }

  /** The held cut stays where it is now, or goes back. */
  letGo(keep = true) {
    const { held } = this
    this.held = null
    if (!held) return
    const moved = held.frame !== this.film.borders[held.index]
    if (keep && moved) this.apply((film) => moveCut(film, held.index, held.frame))
    else this.draw()
  }

  key(/** @type {KeyboardEvent} */ event, /** @type {number} */ index) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.film.canCut) return
    const [low, high] = limits(this.film, index)
    const move = (/** @type {number} */ frame) => {
      this.held = { index, frame, pointer: null }
      this.draw()
    }
    if (event.key in STEPS) move(step(this.seen(), index, STEPS[/** @type {"ArrowUp"} */ (event.key)]))
    else if (event.key === "Home" || event.key === "End") {
      move(event.key === "Home" ? low : high)
      this.letGo()
    } else if (event.key === "Escape") this.letGo(false)
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(index)
    else if (event.key === "Enter") this.addIn(index + 1)
    else if (event.key === "F2") this.cards.list[index + 1]?.name.focus()
    else return
    event.preventDefault()
  }

  add(/** @type {number} */ frame) {
    const added = this.film.canCut ? addCut(this.film, frame) : null
    if (added && this.apply(() => added.draft)) child(this.cuts, added.index)?.focus()
    else if (this.film.canCut && !added) {
      this.said = say("There is no place left for a cut: every shot is as short as this model can make it.")
      this.draw()
    }
  }

  /** A cut in the middle of a shot. */
  addIn(/** @type {number} */ shot) {
    this.add(((this.film.borders[shot - 1] ?? 0) + (this.film.borders[shot] ?? this.film.shown)) / 2)
  }

  longest() {
    const ends = [...this.film.borders, this.film.shown]
    const lasts = ends.map((end, i) => end - (ends[i - 1] ?? 0))
    return lasts.indexOf(Math.max(...lasts))
  }

  remove(/** @type {number} */ index) {
    this.held = null
    this.apply((film) => removeCut(film, index))
    const next = child(this.cuts, Math.min(index, this.film.cuts.length - 1)) ?? this.plus
    next.focus()
  }

  changeLength() {
    const { unit, fps } = this.widgets
    const text = this.length.value.trim()
    try {
      const asked = text ? readTime(text.replace(/\s*(s|f)\w*$/, "$1"), unit, fps).frames : 0
      this.length.blur()
      this.apply((film) => setLength(film, asked))
      if (asked && this.film.length !== asked && !this.said) {
        this.said = say("{asked} frames became {length}: the nearest length that fits the shots and the model.", { asked, length: this.film.length })
        this.draw()
      }
    } catch (error) {
      this.said = error instanceof Error ? error.message : String(error)
      this.draw()
    }
  }

  takeDetected() {
    const { detected } = this.known
    if (detected) this.apply((film) => takeShots(film, detected))
  }

  frameAt(/** @type {MouseEvent} */ event) {
    const { left, width } = this.track.getBoundingClientRect()
    return Math.min(Math.max((event.clientX - left) / width, 0), 1) * this.film.shown
  }
}

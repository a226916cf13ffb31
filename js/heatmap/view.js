// @ts-check
// The heatmap's controls and canvas. It knows no node and no server: what it shows is handed in, what it wants it asks for.

import { drawFlow, findInFlow, tellArc } from "./flow.js"
import { button, choices, setSlider, slider } from "../lib/controls.js"
import { csv, nameOf, progress, selection, tell } from "./data.js"
import { drawMap, findCell, legend } from "./canvas.js"
import { download, save, savePng } from "./export.js"
import { strip } from "./strip.js"
import { addStyle, make } from "./style.js"
import { say } from "../lib/words.js"

/** @typedef {import("./data.js").RoutingMap} RoutingMap */
/** @typedef {import("./data.js").Lines} Lines */
/** @typedef {{view: string, first_step: number, last_step: number, block: number, head: number}} Choice */
/** @typedef {{trace: string, status: string, running?: boolean, step?: number, steps: number, recorded_steps: number[],
 *   recorded_blocks: number[], heads: number, stopped?: boolean, maps: Record<string, RoutingMap>, thumbnails?: any}} Info */

const isFlow = (/** @type {RoutingMap | null} */ map, /** @type {string} */ view) => view === "flow" && map?.view === "shots"
const empty = () => say("Run the workflow to see which frames read which. The map fills while the sampler works.")

/** @type {Record<string, [number, number]>} rows, columns */
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }

export class HeatmapView {
  /**
   * @param {{choice: () => Choice, choose: (change: Partial<Choice>) => void, locked: () => string[],
   *   ask: (trace: string, choice: Choice) => Promise<RoutingMap>, sheet: (info: Info) => any,
   *   npz: (trace: string) => string, resized: () => void}} host
   */
  constructor(host) {
    addStyle()
    this.host = host
    this.info = /** @type {Info | null} */ (null)
    this.map = /** @type {RoutingMap | null} */ (null)
    this.bank = /** @type {RoutingMap | null} */ (null) // beside it in the flow
    this.show = "chosen"
    this.row = -1
    /** @type {[number, number] | null} row, column */
    this.cell = null
    this.shot = -1
    this.hovered = -1
    this.drawn = /** @type {{cells?: import("./canvas.js").Drawn, flow?: ReturnType<typeof drawFlow>} | null} */ (null)
    this.asking = this.stale = false
    this.failed = ""
    this.status = make("div", { className: "status", role: "status" })
    this.views = choices(say("View"), { frames: say("Frames"), shots: say("Shots"), chunks: say("Chunks"), flow: say("Flow"), bank: say("Bank") }, (view) => this.choose({ view }))
    this.shows = choices(say("What is shown"), { chosen: say("Chosen"), attention: say("Attention") }, (show) => {
      this.show = show
      this.paint()
    })
    this.canvas = make("canvas", { tabIndex: 0, role: "application", "aria-roledescription": say("routing map") })
    this.empty = make("div", { className: "empty" }, empty())
    this.legend = make("div", { className: "legend" })
    this.said = make("output", { "aria-live": "polite" })
    this.strip = make("ul", { className: "strip", tabIndex: 0, hidden: true })
    this.sliders = {
      first: slider(say("Step"), (i) => this.chooseStep(i, "first")),
      last: slider(say("to step"), (i) => this.chooseStep(i, "last")),
      block: slider(say("Block"), (i) => this.choose({ block: i ? this.blocks()[i - 1] : -1 })),
      head: slider(say("Head"), (i) => this.choose({ head: i - 1 })),
    }
    const grid = make("div", { className: "sliders" })
    for (const { label, input, value } of Object.values(this.sliders)) grid.append(label, input, value)
    this.save = make(
      "div",
      { className: "bar", role: "group", "aria-label": say("Save") },
      button(say("Save PNG"), () => this.savePicture()),
      button(say("Save CSV"), () => this.map && save(new Blob([csv(this.map)], { type: "text/csv" }), "moc_routing.csv")),
      button(say("Save NPZ"), () => this.info && download(this.host.npz(this.info.trace), "moc_routing.npz")),
    )
    this.element = make(
      "div",
      { className: "mixture-of-contexts-heat", role: "group", "aria-label": say("Routing heatmap") },
      this.status,
      make("div", { className: "bar" }, this.views.field, this.shows.field),
      make("div", { className: "plot" }, this.canvas, this.empty),
      this.legend,
      this.said,
      this.strip,
      grid,
      this.save,
    )
    this.listen()
    new ResizeObserver(() => this.draw()).observe(this.canvas)
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => this.point(event))
    this.canvas.addEventListener("pointerleave", () => this.point(null))
    this.canvas.addEventListener("click", (event) => {
      this.point(event)
      this.pick()
    })
    this.canvas.addEventListener("keydown", (event) => this.key(event))
    // the graph under the node must not drag, zoom or delete because of what happens in here
    for (const kind of ["pointerdown", "dblclick", "contextmenu"]) this.element.addEventListener(kind, (e) => e.stopPropagation())
    this.element.addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.metaKey) event.stopPropagation()
    })
  }

  blocks() {
    return this.info?.recorded_blocks ?? []
  }

  // What is shown

  /** The run says how it goes, or how it went. */
  tell(/** @type {Info} */ info) {
    // of a run that was stopped the server keeps no more than what this message holds
    const gone = info.stopped ? { recorded_steps: [], recorded_blocks: [], heads: 0 } : {}
    this.info = { ...info, ...gone }
    this.refresh()
  }

  choose(/** @type {Partial<Choice>} */ change) {
    this.row = this.shot = -1 // of the map that was shown
    this.cell = null
    this.host.choose(change)
    this.refresh()
  }

  chooseStep(/** @type {number} */ i, /** @type {"first" | "last"} */ which) {
    const steps = this.info?.recorded_steps ?? []
    const { first_step: first, last_step: last } = this.host.choice()
    if (which === "last") this.choose({ last_step: Math.max(steps[i] ?? first, first) })
    else if (!i) this.choose({ first_step: 0, last_step: -1 })
    else {
      const step = steps[i - 1]
      this.choose({ first_step: step, last_step: last < 0 || last === first ? step : Math.max(step, last) })
    }
  }

  /** Show what the choice asks for: from the last message where it holds that, else from the server. */
  async refresh() {
    if (!this.info) return
    const choice = this.host.choice()
    const whole = choice.block < 0 && choice.head < 0 && choice.first_step <= 0 && choice.last_step < 0
    const maps = this.info.maps ?? {}
    const view = !maps.frames && maps.bank ? "bank" : choice.view === "flow" ? "shots" : choice.view
    const known = whole ? maps[view] : undefined
    this.failed = ""
    this.stale = this.asking // what is being asked for is not what is wanted any more
    if (known) [this.map, this.bank] = [known, maps.bank ?? null]
    else if (view === "bank" && !maps.bank) this.map = null
    else if (Object.keys(maps).length) await this.fetch({ ...choice, view })
    else this.map = null
    this.paint()
  }

  /** One question at a time; what changed meanwhile is asked for once it is answered. */
  async fetch(/** @type {Choice} */ choice) {
    if (this.asking) return
    this.asking = true
    try {
      const { trace, maps } = /** @type {Info} */ (this.info)
      const beside = choice.view === "shots" && maps.bank ? this.host.ask(trace, { ...choice, view: "bank" }) : null
      this.map = await this.host.ask(trace, choice)
      this.bank = await beside
      this.failed = ""
    } catch (error) {
      this.failed = error instanceof Error ? error.message : String(error)
    }
    this.asking = false
    if (this.stale) {
      this.stale = false
      await this.refresh()
    }
  }

  paint() {
    const { info, map } = this
    if (map && (this.row >= map.rows.kind.length || (this.cell && this.cell[0] >= map.rows.kind.length))) {
      this.row = -1 // a map of another film
      this.cell = null
    }
    const choice = this.host.choice()
    const locked = this.host.locked()
    this.status.replaceChildren(...(info?.running ? [make("span", { className: "dot" })] : []), this.progress())
    for (const [key, input] of Object.entries(this.views.inputs)) {
      if (key === "bank" && input.parentElement) input.parentElement.hidden = !info?.maps?.bank && choice.view !== "bank"
      input.checked = key === choice.view
      input.disabled = locked.includes("view")
    }
    const attention = Boolean(map?.mass)
    if (!attention) this.show = "chosen"
    this.shows.field.hidden = !attention || choice.view === "flow"
    for (const [key, input] of Object.entries(this.shows.inputs)) input.checked = key === this.show
    this.setSliders(choice, locked)
    this.empty.hidden = Boolean(map)
    this.save.hidden = !map
    this.legend.replaceChildren(
      ...(map && !isFlow(map, choice.view) ? legend(map) : []).map(({ swatch, text }) => make("span", {}, make("i", { className: swatch }), text)),
    )
    this.canvas.setAttribute("aria-label", this.label())
    this.describe()
    this.drawStrip()
    this.draw()
  }

  progress() {
    const { info } = this
    if (!info) return ""
    if (this.failed) return this.failed
    return progress(info)
  }

  label() {
    if (!this.map) return empty()
    const flow = isFlow(this.map, this.host.choice().view)
    const what = flow ? say("Which shot reads which") : this.map.view === "bank" ? say("What is read in the bank") : say("Which frames read which")
    return `${what}: ${selection(this.map)}. ${say("Arrow keys move, Enter chooses a reader, Escape lets go.")}`
  }

  setSliders(/** @type {Choice} */ choice, /** @type {string[]} */ locked) {
    const steps = this.info?.recorded_steps ?? []
    const { first, last, block, head } = this.sliders
    const all = choice.first_step <= 0 && choice.last_step < 0
    const end = choice.last_step < 0 ? (steps[steps.length - 1] ?? 0) : choice.last_step
    setSlider(first, steps.length, all ? 0 : steps.indexOf(choice.first_step) + 1, all ? say("all") : String(choice.first_step))
    for (const part of Object.values(last)) part.hidden = all
    setSlider(last, steps.length - 1, Math.max(steps.indexOf(end), 0), String(end))
    setSlider(block, this.blocks().length, this.blocks().indexOf(choice.block) + 1, choice.block < 0 ? say("mean") : String(choice.block))
    setSlider(head, this.info?.heads ?? 0, choice.head + 1, choice.head < 0 ? say("mean") : this.map?.heads_together ? say("together") : String(choice.head))
    first.input.disabled ||= locked.includes("first_step") || locked.includes("last_step")
    last.input.disabled ||= first.input.disabled
    block.input.disabled ||= locked.includes("block")
    head.input.disabled ||= locked.includes("head")
  }

  draw() {
    const { map, canvas } = this
    const [width, height] = [canvas.clientWidth, canvas.clientHeight]
    const pen = canvas.getContext("2d")
    if (!map || !pen || !width || !height) return
    const sharp = Math.max(2, window.devicePixelRatio) // a node may be zoomed into
    canvas.width = Math.round(width * sharp)
    canvas.height = Math.round(height * sharp)
    pen.scale(sharp, sharp)
    this.drawn = this.drawInto(pen, width, height)
  }

  /** @param {CanvasRenderingContext2D} pen @param {number} width @param {number} height */
  drawInto(pen, width, height) {
    const map = /** @type {RoutingMap} */ (this.map)
    if (isFlow(map, this.host.choice().view)) return { flow: drawFlow(pen, map, this.bank, { width, height, focus: this.shot }) }
    return { cells: drawMap(pen, map, { width, height, show: this.show, cell: this.cell, row: this.row }) }
  }

  drawStrip() {
    const shown = this.map && this.row >= 0 && this.row < this.map.rows.kind.length && this.map.view !== "bank" && !isFlow(this.map, this.host.choice().view)
    if (this.strip.hidden === Boolean(shown)) {
      this.strip.hidden = !shown
      this.host.resized()
    }
    if (!shown || !this.map || !this.info) return
    const { title, items } = strip(this.map, this.row, this.show, this.host.sheet(this.info))
    this.strip.setAttribute("aria-label", title)
    this.strip.replaceChildren(...items)
  }

  // What the pointer and the keys do

  point(/** @type {PointerEvent | MouseEvent | null} */ event) {
    let said = ""
    this.cell = null
    if (event && this.drawn && this.map) {
      const box = this.canvas.getBoundingClientRect() // in the page's pixels: the graph may be zoomed
      const x = ((event.clientX - box.left) * this.canvas.clientWidth) / box.width
      const y = ((event.clientY - box.top) * this.canvas.clientHeight) / box.height
      if (this.drawn.flow) {
        const found = findInFlow(this.drawn.flow, x, y)
        this.hovered = found?.shot ?? -1
        said = found?.arc ? tellArc(this.drawn.flow.names, found.arc) : ""
      } else if (this.drawn.cells) this.cell = findCell(this.drawn.cells, x, y)
    }
    this.describe(said)
    this.draw()
  }

  describe(said = "") {
    const chosen = this.map && this.row >= 0 ? `${strip(this.map, this.row, this.show, null).title} …` : ""
    if (this.map && this.cell) said = tell(this.map, ...this.cell)
    const fallback = this.map ? chosen || selection(this.map) : ""
    this.said.textContent = said || fallback
  }

  pick() {
    if (this.drawn?.flow) this.shot = this.hovered === this.shot ? -1 : this.hovered
    else if (this.cell) this.row = this.row === this.cell[0] ? -1 : this.cell[0]
    this.paint()
  }

  key(/** @type {KeyboardEvent} */ event) {
    const move = MOVES[event.key]
    if (!this.map || !(move || ["Enter", " ", "Escape"].includes(event.key))) return
    event.preventDefault()
    if (event.key === "Escape") {
      this.row = this.shot = -1
      this.cell = null
      return this.paint()
    }
    if (this.drawn?.flow) {
      const { count } = this.drawn.flow
      if (move) this.shot = (Math.max(this.shot, move[0] + move[1] < 0 ? 0 : -1) + move[0] + move[1] + count) % count
      this.draw()
      const { names, spots } = this.drawn.flow
      const arcs = spots.filter((spot) => spot.reader === this.shot)
      return this.describe(arcs.reverse().map((arc) => tellArc(names, arc)).join(" "))
    }
    const [row, column] = this.cell ?? [-1, -1]
    const inside = (/** @type {number} */ at, /** @type {Lines} */ lines) => Math.min(Math.max(at, 0), lines.kind.length - 1)
    if (!move) return this.pick()
    this.cell = [inside(row + move[0], this.map.rows), inside(column + move[1], this.map.columns)]
    this.describe()
    this.draw()
  }

  savePicture() {
    const { map, row } = this
    if (!map) return
    const marked = row >= 0 ? `; ${say("{what} is marked", { what: nameOf(map.rows, row, map.view) })}` : ""
    savePng((pen, width, height) => this.drawInto(pen, width, height), selection(map) + marked)
  }
}

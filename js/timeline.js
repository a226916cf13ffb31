// @ts-check
// The timeline on MoC Shots in the browser, in both ways ComfyUI draws nodes.

// @ts-ignore served by ComfyUI
import { app } from "../../scripts/app.js"
import { keepMounted } from "./lib/mounted.js"
import { TimelineView } from "./timeline/view.js"

const READ = ["how", "times", "unit", "fps", "shot_count", "prompt", "length", "family"]
const WIDTH = 480
const HEIGHT = 330

/** @type {Record<string, import("./timeline/time_rules.js").TimeRule>} */
let rules = {}
/** Undo makes all nodes anew: where the focus was when somebody pressed its keys. */
let undone = { node: "", label: "", at: 0 }
const UNDO_TAKES = 2000 // ms, at most

// What a run told outlives the node (undo makes a new one) and the page: the server tells nothing again of a node whose
// inputs did not change. It is no part of the workflow.
const keyOf = (/** @type {any} */ node) => `mixture-of-contexts-timeline ${node.graph?.id} ${node.id}`
const keepRun = (/** @type {any} */ node, /** @type {any} */ output) => {
  if (output?.moc_shots) sessionStorage.setItem(keyOf(node), JSON.stringify(output))
}
const lastRun = (/** @type {any} */ node) => JSON.parse(sessionStorage.getItem(keyOf(node)) ?? "null")

app.registerExtension({
  name: "mixture_of_contexts.timeline",
  beforeRegisterNodeDef(/** @type {any} */ _, /** @type {any} */ definition) {
    if (definition.name === "MoCShots") rules = definition.input?.optional?.family?.[1]?.time_rules ?? {}
  },
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === "MoCShots") addTimeline(node)
  },
  loadedGraphNode(/** @type {any} */ node) {
    node.mocTimelineLoaded?.()
  },
})

function addTimeline(/** @type {any} */ node) {
  const widget = (/** @type {string} */ name) => node.widgets?.find((/** @type {any} */ w) => w.name === name)
  let writing = false
  const asOneStep = (/** @type {() => void} */ change) => {
    app.canvas?.emitBeforeChange?.()
    change()
    app.canvas?.emitAfterChange?.()
  }
  const view = new TimelineView({
    read() {
      const output = lastRun(node)
      const linked = (node.inputs ?? []).filter((/** @type {any} */ i) => i.widget && i.link != null)
      return [
        /** @type {any} */ (Object.fromEntries(READ.map((name) => [name, widget(name)?.value]))),
        {
          rules,
          linked: linked.map((/** @type {any} */ i) => i.widget.name),
          ran: output?.moc_shots?.[0] ?? null,
          detected: output?.moc_detected?.[0] ?? null,
        },
      ]
    },
    write(changes, finished) {
      const set = () => {
        for (const [name, value] of Object.entries(changes)) {
          const one = widget(name)
          one.value = value
          one.callback?.(value, app.canvas, node)
        }
      }
      writing = true
      finished ? asOneStep(set) : set()
      writing = false
      node.graph?.setDirtyCanvas(true, true)
    },
    finish: () => asOneStep(() => {}),
  })
  const dom = node.addDOMWidget("moc_timeline", "moc_timeline", view.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getValue: () => "",
    setValue: () => {},
  })
  dom.serialize = false
  view.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (!(event.ctrlKey || event.metaKey) || !"zy".includes(event.key.toLowerCase())) return
    const label = document.activeElement?.getAttribute("aria-label") ?? ""
    undone = { node: String(node.id), label, at: Date.now() }
  })
  const mount = keepMounted(node, view.element, ".mixture-of-contexts-time", () => {
    if (undone.node === String(node.id) && Date.now() - undone.at < UNDO_TAKES) view.focus(undone.label)
  })
  node.mocTimelineLoaded = () => {
    view.changed()
    mount()
  }
  for (const name of READ) {
    const one = widget(name)
    const before = one.callback
    one.callback = (/** @type {any[]} */ ...args) => {
      before?.apply(one, args)
      if (!writing) view.changed()
    }
  }
  for (const [name, act] of Object.entries({
    onExecuted: (/** @type {any} */ output) => keepRun(node, output),
    onConfigure: () => {},
    onConnectionsChange: () => {},
  })) {
    const before = node[name]
    node[name] = function (/** @type {any[]} */ ...args) {
      before?.apply(this, args)
      act(args[0])
      view.changed()
    }
  }
  node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])])
}

// @ts-check
// Only inputs that count are shown. A schema marks some as advanced, and says of some what others must hold for them to
// count (`only_when`). Nodes 2.0 folds away what is advanced; the classic canvas can do the same (a node's menu then
// offers "Show Advanced"), but it looks for the mark on the widget, and keeps room for the folded ones unless hidden.
// Nothing is taken from the node: a hidden widget keeps its value and its place in what is saved.

// @ts-ignore served by ComfyUI
import { app } from "../../scripts/app.js"

/** @typedef {Record<string, any[]>} Case what other inputs hold; null: nothing is connected */

app.registerExtension({
  name: "mixture_of_contexts.advanced",
  nodeCreated(/** @type {any} */ node) {
    if (/^MoC[A-Z]/.test(node.comfyClass ?? "")) hideOthers(node)
  },
})

function hideOthers(/** @type {any} */ node) {
  const widget = (/** @type {string} */ name) => node.widgets?.find((/** @type {any} */ w) => w.name === name)
  const linked = (/** @type {string} */ name) => node.inputs?.some((/** @type {any} */ i) => i.name === name && i.link != null)
  const rules = onlyWhen(node.constructor.nodeData?.input)
  // what another node decides is not known here
  const held = (/** @type {string} */ name, /** @type {any[]} */ values) =>
    values.includes(null) ? !linked(name) : linked(name) || values.includes(widget(name)?.value)
  const holds = (/** @type {Case} */ one) => Object.entries(one).every(([name, values]) => held(name, values))
  const counts = (/** @type {string} */ name) => !rules[name] || linked(name) || rules[name].some(holds)
  let idle = new Set() // those that do not count now
  const folded = (node.widgets ?? []).filter((/** @type {any} */ one) => one.options?.advanced)
  for (const one of folded) one.advanced = true
  for (const one of new Set([...folded, ...Object.keys(rules).map(widget)])) {
    const hidden = () => (one.advanced && !node.showAdvanced) || idle.has(one.name)
    Object.defineProperty(one, "hidden", { get: hidden, set: () => {}, configurable: true })
  }
  const settle = (fit = true) => {
    const now = new Set(Object.keys(rules).filter((name) => !counts(name)))
    if ([...now].join() === [...idle].join()) return
    const before = node.computeSize()[1]
    idle = now
    for (const name of Object.keys(rules)) widget(name).options.hidden = idle.has(name) // Nodes 2.0 looks here
    node.widgets.push(node.widgets[0]) // and looks again when the list of widgets changes
    node.widgets.pop()
    if (fit) node.setSize([node.size[0], node.size[1] + node.computeSize()[1] - before])
    node.graph?.setDirtyCanvas(true, true)
  }
  for (const name of new Set(Object.values(rules).flat().flatMap(Object.keys))) {
    const one = widget(name)
    if (!one) continue
    const before = one.callback
    one.callback = (/** @type {any[]} */ ...args) => {
      before?.apply(one, args)
      settle()
    }
  }
  for (const event of ["onConfigure", "onConnectionsChange"]) {
    const before = node[event]
    node[event] = function (/** @type {any[]} */ ...args) {
      before?.apply(this, args)
      settle(event !== "onConfigure") // a saved size is that of what it shows
    }
  }
  settle()
  if (folded.length) node.setSize([node.size[0], node.computeSize()[1]])
}

/** @returns {Record<string, Case[]>} the cases in which an input counts, for those that do not always */
function onlyWhen(/** @type {any} */ inputs) {
  const all = Object.values({ ...inputs?.required, ...inputs?.optional })
  return Object.assign({}, ...all.map((/** @type {any} */ spec) => spec[1]?.only_when ?? {}))
}

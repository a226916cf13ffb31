// @ts-check
// MoC Routing Heatmap in the browser: the map on the node, live while the sampler works.

// @ts-ignore served by ComfyUI
import { app } from "../../scripts/app.js"
// @ts-ignore served by ComfyUI
import { api } from "../../scripts/api.js"
import { answers, last, onTrace, runningIds } from "./lib/trace_channel.js"
import { HeatmapView } from "./heatmap/view.js"
import { keepMounted } from "./lib/mounted.js"

const CHOICE = ["view", "block", "head", "first_step", "last_step"]
const SHOWN_BY_US = ["view", "block", "head"] // the map's own controls stand for these; the steps are folded away already
const WIDTH = 460
const HEIGHT = { plain: 540, strip: 700 } // of the map, with the frames of a chosen row below it

app.registerExtension({
  name: "mixture_of_contexts.heatmap",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === "MoCRoutingHeatmap") addMap(node)
  },
  loadedGraphNode(/** @type {any} */ node) {
    node.mocShowLast?.()
  },
})

function addMap(/** @type {any} */ node) {
  const widget = (/** @type {string} */ name) => node.widgets?.find((/** @type {any} */ w) => w.name === name)
  const linked = () => CHOICE.filter((name) => node.inputs?.some((/** @type {any} */ i) => i.widget?.name === name && i.link != null))
  const view = new HeatmapView({
    choice: () => /** @type {any} */ (Object.fromEntries(CHOICE.map((name) => [name, widget(name)?.value]))),
    choose(change) {
      for (const [name, value] of Object.entries(change)) {
        const one = widget(name)
        if (!one || one.value === value) continue
        one.value = value
        one.callback?.(value, app.canvas, node)
      }
      node.graph?.setDirtyCanvas(true)
    },
    locked: linked,
    ask: (trace, choice) => answers(`/moc/heatmap/${trace}?${new URLSearchParams(/** @type {any} */ (choice))}`),
    npz: (trace) => api.apiURL(`/moc/npz/${trace}`),
    resized: () => fit(),
    sheet: ({ thumbnails: t }) =>
      t ? { ...t, url: api.apiURL(`/view?${new URLSearchParams({ filename: t.filename, subfolder: t.subfolder, type: t.type })}`) } : null,
  })
  const dom = node.addDOMWidget("moc_map", "moc_map", view.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (view.strip.hidden ? HEIGHT.plain : HEIGHT.strip),
    getValue: () => "",
    setValue: () => {},
  })
  dom.serialize = false
  node.hideOutputImages = true // the map shows it, and more
  Object.defineProperty(node, "imgs", { get: () => undefined, set: () => {}, configurable: true })
  for (const name of CHOICE) {
    const one = widget(name)
    if (!one) continue
    if (SHOWN_BY_US.includes(name)) {
      one.hidden = true
      one.options.hidden = true
    }
    const before = one.callback
    one.callback = (/** @type {any[]} */ ...args) => {
      before?.apply(one, args)
      view.refresh()
    }
  }
  const fit = () => node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])])
  fit()
  node.mocMap = view
  view.paint()

  const forget = onTrace((message, ids) => {
    if (runningIds(node).some((id) => ids.includes(id))) view.tell(message)
  })
  const removed = node.onRemoved
  node.onRemoved = function () {
    forget()
    removed?.apply(this, arguments)
  }
  // a page that is loaded anew
  const loaded = keepMounted(node, view.element, ".mixture-of-contexts-heat", () => view.paint())
  node.mocShowLast = async () => {
    loaded()
    const info = await last(node)
    if (info && !view.info) view.tell(info)
    else view.paint()
  }
}

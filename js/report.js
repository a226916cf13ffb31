// @ts-check
// One line on MoC Apply while it runs; the whole report and a JSON file behind it.

// @ts-ignore served by ComfyUI
import { app } from "../../scripts/app.js"
import { button as makeButton } from "./lib/controls.js"
import { say, sayReport } from "./lib/words.js"
import { progress } from "./heatmap/data.js"
import { save } from "./heatmap/export.js"
import { last, onTrace, runningIds } from "./lib/trace_channel.js"
import { addStyle, make } from "./heatmap/style.js"
import { keepMounted } from "./lib/mounted.js"

const LINE = 46
const OPEN = 190

app.registerExtension({
  name: "mixture_of_contexts.report",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === "MoCApply") addReport(node)
  },
  loadedGraphNode(/** @type {any} */ node) {
    node.mocReportLast?.()
  },
})

function addReport(/** @type {any} */ node) {
  addStyle()
  const line = make("span", { role: "status" }, say("Not sampled yet."))
  const text = make("pre")
  const button = makeButton(say("Save JSON"), () => save(asJson(), "moc_report.json"))
  const details = make("details", {}, make("summary", {}, line), text, button)
  const element = make("div", { className: "mixture-of-contexts-heat mixture-of-contexts-report" }, details)
  let told = /** @type {any} */ (null)
  const show = (/** @type {any} */ message) => {
    told = message
    line.textContent = progress(message)
    text.textContent = sayReport(message.summary.report)
    button.hidden = false
  }
  button.hidden = true
  const asJson = () => new Blob([JSON.stringify(told.summary, null, 2)], { type: "application/json" })
  element.addEventListener("pointerdown", (event) => event.stopPropagation())
  const widget = node.addDOMWidget("moc_report", "moc_report", element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (details.open ? OPEN : LINE),
    getMaxHeight: () => (details.open ? 600 : LINE),
    getValue: () => "",
    setValue: () => {},
  })
  widget.serialize = false
  details.addEventListener("toggle", () => node.setSize([node.size[0], node.computeSize()[1]]))
  node.setSize([Math.max(node.size[0], 300), node.computeSize()[1]])

  const forget = onTrace((message, ids) => {
    if (runningIds(node).some((id) => ids.includes(id))) show(message)
  })
  const removed = node.onRemoved
  node.onRemoved = function () {
    forget()
    removed?.apply(this, arguments)
  }
  const loaded = keepMounted(node, element, ".mixture-of-contexts-report", () => {})
  node.mocReportLast = async () => {
    loaded()
    const message = await last(node)
    if (message && !told) show(message)
  }
}

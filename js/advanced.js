// @ts-check
// Nodes 2.0 folds away what a node's schema marks as advanced. The classic canvas can do the same (a node's menu then
// offers "Show Advanced"), but it looks for the mark on the widget, and keeps room for the folded ones unless hidden.

// @ts-ignore served by ComfyUI
import { app } from "../../scripts/app.js"

app.registerExtension({
  name: "mixture_of_contexts.advanced",
  nodeCreated(/** @type {any} */ node) {
    if (!/^MoC[A-Z]/.test(node.comfyClass ?? "")) return
    const folded = (node.widgets ?? []).filter((/** @type {any} */ widget) => widget.options?.advanced)
    for (const widget of folded) {
      widget.advanced = true
      Object.defineProperty(widget, "hidden", { get: () => !node.showAdvanced, set: () => {}, configurable: true })
    }
    if (folded.length) node.setSize([node.size[0], node.computeSize()[1]])
  },
})

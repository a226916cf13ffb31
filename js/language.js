// @ts-check
// Which language the page is in, and the labels of choices in it: what a workflow saves stays English.

// @ts-ignore served by ComfyUI
import { app } from "../../scripts/app.js"
// @ts-ignore served by ComfyUI
import { api } from "../../scripts/api.js"
import { sayChoice, speak } from "./lib/words.js"

const tables = await api
  .fetchApi("/i18n")
  .then((/** @type {Response} */ answer) => answer.json())
  .catch(() => ({})) // English
speak(() => {
  const asked = String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "en").toLowerCase()
  const found = [asked, asked.split("-")[0]].flatMap((tag) => Object.keys(tables).filter((name) => name.toLowerCase() === tag))[0]
  return tables[found]?.mixture_of_contexts ?? {}
})

app.registerExtension({
  name: "mixture_of_contexts.language",
  nodeCreated(/** @type {any} */ node) {
    if (!/^MoC[A-Z]/.test(node.comfyClass ?? "")) return
    for (const widget of node.widgets ?? []) {
      if (widget.type === "combo") widget.options.getOptionLabel = (/** @type {string | null} */ choice) => sayChoice(choice ?? "")
    }
  },
})

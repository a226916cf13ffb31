// @ts-check
// What the server says about routing: messages while it runs, answers to questions, and what a node showed last.

// @ts-ignore served by ComfyUI
import { app } from "../../../scripts/app.js"
// @ts-ignore served by ComfyUI
import { api } from "../../../scripts/api.js"

/** @typedef {(message: any, ids: string[]) => void} Listener ids: the nodes this is for, as they are called while running */

/** @type {Set<Listener>} */
const listeners = new Set()

api.addEventListener("moc.trace", (/** @type {CustomEvent} */ { detail }) => tell(detail, [detail.node, ...detail.shown_on]))
api.addEventListener("executed", (/** @type {CustomEvent} */ { detail }) => {
  const told = detail.output?.moc?.[0]
  if (told) tell({ ...told, running: false }, [detail.display_node ?? detail.node, detail.node])
})

function tell(/** @type {any} */ message, /** @type {string[]} */ ids) {
  // another tab's workflow may have nodes of the same numbers
  if (message.workflow && root().id && message.workflow !== root().id) return
  for (const listener of listeners) listener(message, ids.map(String))
}

/** Returns what ends it. */
export function onTrace(/** @type {Listener} */ listener) {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** How a node is called while running: "5", and "2:5" inside the subgraph 2, which may stand in the graph twice. */
export function runningIds(/** @type {any} */ node) {
  /** @type {string[]} */
  const found = []
  const look = (/** @type {any} */ graph, /** @type {string} */ before) => {
    if (graph === node.graph) found.push(before + node.id)
    for (const inner of graph.nodes ?? graph._nodes ?? []) if (inner.subgraph) look(inner.subgraph, `${before}${inner.id}:`)
  }
  look(root(), "")
  return found
}

function root() {
  return app.rootGraph ?? app.graph.rootGraph ?? app.graph
}

/** The server's answer as data; an error with its words. */
export async function answers(/** @type {string} */ route) {
  const answer = await api.fetchApi(route)
  if (answer.ok) return answer.json()
  const text = await answer.text()
  let words = text
  try {
    words = JSON.parse(text).error ?? text
  } catch {
    // not JSON: the text is the reason
  }
  throw new Error(words)
}

/** What the server last told this node in a run of this page, also before it was loaded anew; or null. */
export async function last(/** @type {any} */ node) {
  const client = api.clientId ?? api.initialClientId ?? ""
  for (const id of runningIds(node)) {
    const told = await answers(`/moc/last?${new URLSearchParams({ client, workflow: root().id ?? "", node: id })}`).catch(() => null)
    if (told?.trace) return told
  }
  return null
}

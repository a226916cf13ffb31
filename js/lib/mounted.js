// @ts-check
// Nodes 2.0 puts a widget's element on the page when its node appears, and not again when undo loads the whole graph
// anew: the node is another one then, with the same number, and the page would go on showing the element of the old one.

/** @type {WeakMap<Element, any>} */
const owners = new WeakMap()
const isGone = (/** @type {any} */ node) => node.graph?.getNodeById(node.id) !== node

/**
 * To be called once for a new node; what comes back is to be called when the node was loaded.
 * @param {any} node @param {HTMLElement} element @param {string} selector finds such elements
 */
export function keepMounted(node, element, selector) {
  owners.set(element, node)
  const settle = () => {
    if (element.isConnected || isGone(node)) return
    for (const old of document.querySelectorAll(selector)) {
      const owner = owners.get(old)
      if (owner && String(owner.id) === String(node.id) && isGone(owner)) return old.replaceWith(element)
    }
  }
  return () => requestAnimationFrame(() => requestAnimationFrame(settle)) // what the page mounts itself comes first
}

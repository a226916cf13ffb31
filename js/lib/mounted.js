// @ts-check
// Nodes 2.0 puts a widget's element on the page when its node appears, and not again when undo loads the whole graph
// anew: the node is another one then, with the same number, and the page would go on showing the element of the old one.

/** @type {WeakMap<Element, any>} */
const owners = new WeakMap()
const isGone = (/** @type {any} */ node) => node.graph?.getNodeById(node.id) !== node

/**
 * To be called once for a new node; what comes back is to be called when the node was loaded.
 * @param {any} node @param {HTMLElement} element @param {string} selector finds such elements
 * @param {() => void} mounted called when the element is on the page
 */
export function keepMounted(node, element, selector, mounted) {
  owners.set(element, node)
  const settle = () => {
    if (isGone(node)) return
    if (!element.isConnected) {
      const shown = [...document.querySelectorAll(selector)]
      const isOurs = (/** @type {any} */ owner) => owner && String(owner.id) === String(node.id) && isGone(owner)
      shown.find((old) => isOurs(owners.get(old)))?.replaceWith(element)
    }
    if (element.isConnected) mounted()
  }
  return () => requestAnimationFrame(() => requestAnimationFrame(settle)) // what the page mounts itself comes first
}

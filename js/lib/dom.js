// @ts-check
// Lists of elements that are kept while what they show changes.

/** As many children as asked for; those that stay are kept, with the focus that may be on them. */
export function fill(/** @type {HTMLElement} */ parent, /** @type {number} */ count, /** @type {(index: number) => HTMLElement} */ one) {
  while (parent.children.length > count) parent.lastChild?.remove()
  while (parent.children.length < count) parent.append(one(parent.children.length))
}

export const child = (/** @type {HTMLElement} */ parent, /** @type {number} */ index) => /** @type {HTMLElement} */ (parent.children[index])

export function svg(/** @type {string} */ tag, /** @type {Record<string, string>} */ attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  return element
}

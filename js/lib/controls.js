// @ts-check
// Small parts of a form, with their labels.

import { make } from "../heatmap/style.js"

/** Words of which one is chosen. */
export function choices(/** @type {string} */ name, /** @type {Record<string, string>} */ words, /** @type {(key: string) => void} */ chosen) {
  const group = newId()
  const field = make("fieldset", {}, make("legend", {}, name))
  /** @type {Record<string, HTMLInputElement>} */
  const inputs = {}
  for (const [key, word] of Object.entries(words)) {
    inputs[key] = make("input", { type: "radio", name: group, value: key })
    inputs[key].addEventListener("change", () => chosen(key))
    field.append(make("label", {}, inputs[key], word))
  }
  return { field, inputs }
}

export function slider(/** @type {string} */ name, /** @type {(value: number) => void} */ moved) {
  const id = newId()
  const input = make("input", { type: "range", id, min: "0", max: "0", step: "1", value: "0" })
  input.addEventListener("input", () => moved(Number(input.value)))
  return { label: make("label", { for: id }, name), input, value: make("span") }
}

/** @param {ReturnType<typeof slider>} slider @param {number} most @param {number} at @param {string} words */
export function setSlider({ input, value }, most, at, words) {
  input.max = String(Math.max(most, 0))
  input.value = String(Math.max(at, 0))
  input.disabled = most < 1
  input.setAttribute("aria-valuetext", words)
  value.textContent = words
}

export function button(/** @type {string} */ name, /** @type {() => void} */ pressed) {
  const made = make("button", { type: "button" }, name)
  made.addEventListener("click", pressed)
  return made
}

function newId() {
  return `mixture-of-contexts-${Math.random().toString(36).slice(2)}`
}

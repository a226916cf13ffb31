// @ts-check
// How the heatmap's controls look. Colours of the page's theme where it has them.

const CSS = `
.mixture-of-contexts-heat { --line: var(--border-color, #4e4e4e); --ink: var(--input-text, #ddd); --soft: color-mix(in srgb, var(--ink) 80%, transparent);
  --field: var(--comfy-input-bg, #222); --ring: #7fb3ff;
  display: flex; flex-direction: column; gap: 6px; height: 100%; width: 100%; box-sizing: border-box; padding: 4px 2px;
  font: 12px/1.35 system-ui, sans-serif; color: var(--ink); }
.mixture-of-contexts-heat * { box-sizing: border-box; }
.mixture-of-contexts-heat [hidden] { display: none !important; }
.mixture-of-contexts-heat .bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.mixture-of-contexts-heat .status { min-height: 1.35em; color: var(--ink); }
.mixture-of-contexts-heat .status .dot { display: inline-block; width: 8px; height: 8px; margin-right: 6px; border-radius: 50%; background: #5ec962; }
@media (prefers-reduced-motion: no-preference) { .mixture-of-contexts-heat .status .dot { animation: mixture-of-contexts-pulse 1.2s ease-in-out infinite; } }
@keyframes mixture-of-contexts-pulse { 50% { opacity: 0.25; } }
.mixture-of-contexts-heat fieldset { display: inline-flex; border: 1px solid var(--line); border-radius: 6px; margin: 0; padding: 0; overflow: hidden; }
.mixture-of-contexts-heat legend { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.mixture-of-contexts-heat fieldset label { position: relative; padding: 3px 10px; cursor: pointer; background: var(--field); }
.mixture-of-contexts-heat fieldset label + label { border-left: 1px solid var(--line); }
.mixture-of-contexts-heat fieldset input { position: absolute; inset: 0; opacity: 0; margin: 0; cursor: pointer; }
.mixture-of-contexts-heat fieldset label:has(:checked) { background: #31688e; color: #fff; }
.mixture-of-contexts-heat fieldset label:has(:focus-visible) { outline: 2px solid var(--ring); outline-offset: -2px; }
.mixture-of-contexts-heat fieldset label:has(:disabled) { opacity: 0.45; cursor: default; }
.mixture-of-contexts-heat button, .mixture-of-contexts-heat a.button { font: inherit; color: var(--ink); background: var(--field); border: 1px solid var(--line);
  border-radius: 6px; padding: 3px 10px; cursor: pointer; text-decoration: none; }
.mixture-of-contexts-heat button:hover, .mixture-of-contexts-heat a.button:hover { border-color: var(--ink); }
.mixture-of-contexts-heat :is(button, a, canvas, input[type=range]):focus-visible { outline: 2px solid var(--ring); outline-offset: 1px; }
.mixture-of-contexts-heat .plot { position: relative; flex: 1 1 240px; min-height: 200px; border-radius: 6px; overflow: hidden; background: #15171c; }
.mixture-of-contexts-heat canvas { position: absolute; inset: 0; width: 100%; height: 100%; border-radius: 6px; cursor: crosshair; }
.mixture-of-contexts-heat .empty { position: absolute; inset: 0; display: grid; place-items: center; padding: 24px; text-align: center; color: #c4c9d4; }
.mixture-of-contexts-heat .legend { display: flex; flex-wrap: wrap; gap: 4px 14px; color: var(--soft); }
.mixture-of-contexts-heat .legend i { display: inline-block; width: 20px; height: 12px; margin-right: 6px; vertical-align: -1px; border: 1px solid #878f9f; }
.mixture-of-contexts-heat .legend .hatched { background: repeating-linear-gradient(135deg, #343944 0 3px, #878f9f 3px 5px); }
.mixture-of-contexts-heat .legend .closed { background: #2a2d35; }
.mixture-of-contexts-heat .legend .apart { background: #15171c; }
.mixture-of-contexts-heat output { display: block; min-height: 2.7em; }
.mixture-of-contexts-heat .sliders { display: grid; grid-template-columns: max-content 1fr minmax(64px, max-content); gap: 3px 8px; align-items: center; }
.mixture-of-contexts-heat .sliders label { color: var(--soft); }
.mixture-of-contexts-heat .sliders input { width: 100%; margin: 0; accent-color: #35b779; }
.mixture-of-contexts-heat .sliders span { text-align: right; font-variant-numeric: tabular-nums; }
.mixture-of-contexts-heat .strip { flex: 0 0 auto; max-height: 190px; overflow-y: auto; display: flex; flex-wrap: wrap; gap: 4px; margin: 0; padding: 0; list-style: none; }
.mixture-of-contexts-heat .strip li { position: relative; border-radius: 3px; overflow: hidden; background: #2a2d35; color: #fff; }
.mixture-of-contexts-report pre { margin: 6px 0; white-space: pre-wrap; font: inherit; color: var(--soft); max-height: 110px; overflow-y: auto; }
.mixture-of-contexts-report summary { cursor: pointer; border-radius: 4px; }
.mixture-of-contexts-report summary:focus-visible { outline: 2px solid var(--ring); outline-offset: 1px; }
.mixture-of-contexts-heat .strip li.self { outline: 2px solid #fff; outline-offset: -2px; }
.mixture-of-contexts-heat .strip .over { position: absolute; inset: 0; }
.mixture-of-contexts-heat .strip .say { position: absolute; left: 0; right: 0; bottom: 0; padding: 0 3px; font-size: 11px; line-height: 15px;
  background: rgb(0 0 0 / 0.72); display: flex; justify-content: space-between; gap: 4px; white-space: nowrap; }
`

/** Puts the style on the page, once. */
export function addStyle() {
  if (document.getElementById("mixture-of-contexts-heat-style")) return
  const style = document.createElement("style")
  style.id = "mixture-of-contexts-heat-style"
  style.textContent = CSS
  document.head.append(style)
}

/**
 * An element with attributes and children.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, any>} attributes @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== "string") /** @type {any} */ (element)[name] = value
    else element.setAttribute(name === "className" ? "class" : name, value)
  }
  element.append(...children)
  return element
}

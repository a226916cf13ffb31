// @ts-check
// How the timeline looks. Colours of the page's theme where it has them; what lies on the shots' own colours brings its own.

const CSS = `
.mixture-of-contexts-time { --line: var(--border-color, #4e4e4e); --ink: var(--input-text, #ddd); --soft: var(--descrip-text, #aaa);
  --field: var(--comfy-input-bg, #222); --ring: #7fb3ff; --cut: #ffd479;
  display: flex; flex-direction: column; gap: 6px; height: 100%; width: 100%; box-sizing: border-box; padding: 4px 2px;
  font: 12px/1.35 system-ui, sans-serif; color: var(--ink); }
.mixture-of-contexts-time * { box-sizing: border-box; }
.mixture-of-contexts-time [hidden] { display: none !important; }
.mixture-of-contexts-time .bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.mixture-of-contexts-time :is(input, textarea, .bar button) { font: inherit; color: var(--ink); background: var(--field); border: 1px solid var(--line); border-radius: 6px; padding: 3px 8px; }
.mixture-of-contexts-time .bar button { cursor: pointer; }
.mixture-of-contexts-time .bar button:hover:enabled { border-color: var(--ink); }
.mixture-of-contexts-time :disabled { opacity: 0.5; }
.mixture-of-contexts-time .bar input { width: 74px; margin-left: 6px; }
.mixture-of-contexts-time :is(input, textarea, button):focus-visible { outline: 2px solid var(--ring); outline-offset: 1px; }
.mixture-of-contexts-time ::placeholder { color: var(--soft); opacity: 1; }
.mixture-of-contexts-time [aria-invalid=true] { border-color: #ff8f8f; }
.mixture-of-contexts-time .track { position: relative; flex: 0 0 62px; margin: 0 8px; border-radius: 6px; background: #15171c; cursor: copy; user-select: none; touch-action: none; }
.mixture-of-contexts-time .track.fixed { cursor: default; }
.mixture-of-contexts-time .shot { position: absolute; top: 0; bottom: 14px; overflow: hidden; padding: 4px 2px 4px 12px; background: #2b4a6f; color: #fff; pointer-events: none; container-type: inline-size; }
.mixture-of-contexts-time .shot.odd { background: #3f3f74; }
.mixture-of-contexts-time .shot.open { border-right: 3px dotted #c4c9d4; }
.mixture-of-contexts-time .shot :is(b, span) { display: block; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.mixture-of-contexts-time .shot span { color: #d5dbe8; font-size: 11px; }
@container (max-width: 40px) { .mixture-of-contexts-time .shot span { display: none; } .mixture-of-contexts-time .shot b { text-overflow: clip; } }
.mixture-of-contexts-time .track svg { position: absolute; left: 0; bottom: 0; width: 100%; height: 14px; overflow: visible; pointer-events: none; }
.mixture-of-contexts-time .track path { stroke: #878f9f; stroke-width: 1; vector-effect: non-scaling-stroke; }
.mixture-of-contexts-time .track path.found { stroke: #5ec962; stroke-width: 3; }
.mixture-of-contexts-time .typed { position: absolute; top: 0; bottom: 0; width: 0; border-left: 2px dashed #ff9d5c; pointer-events: none; }
.mixture-of-contexts-time .cut { position: absolute; top: -3px; bottom: -3px; width: 17px; margin-left: -8.5px; padding: 0; border: 0; background: none; cursor: ew-resize; touch-action: none; }
.mixture-of-contexts-time .cut::before { content: ""; position: absolute; inset: 0 7px; border-radius: 2px; background: var(--cut); }
.mixture-of-contexts-time .cut::after { content: ""; position: absolute; left: 2px; right: 2px; top: 18px; height: 14px; border-radius: 4px; background: var(--cut); }
.mixture-of-contexts-time .cut:focus-visible { outline-offset: -1px; border-radius: 4px; }
.mixture-of-contexts-time .cut:focus-visible::before, .mixture-of-contexts-time .cut.held::before { background: #fff; }
.mixture-of-contexts-time .cut[aria-disabled=true] { cursor: default; --cut: #9aa1af; }
.mixture-of-contexts-time .ruler { display: flex; justify-content: space-between; margin: -4px 8px 0; color: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.mixture-of-contexts-time output { display: block; min-height: 2.7em; }
.mixture-of-contexts-time output.problem::before { content: "⚠ "; }
.mixture-of-contexts-time .words { flex: 1 1 150px; min-height: 130px; display: flex; flex-direction: column; gap: 6px; margin: 0 8px; color: var(--soft); }
.mixture-of-contexts-time .all { flex: 0 0 38px; display: flex; gap: 8px; align-items: center; white-space: nowrap; }
.mixture-of-contexts-time .cards { flex: 1 1 86px; display: flex; gap: 6px; margin: 0; padding: 0 0 4px; list-style: none; overflow-x: auto; }
.mixture-of-contexts-time .cards li { flex: 1 1 112px; min-width: 112px; display: flex; flex-direction: column; gap: 4px; }
.mixture-of-contexts-time .cards label { display: flex; gap: 6px; align-items: center; }
.mixture-of-contexts-time .cards input { flex: 1 1 40px; min-width: 0; padding: 1px 6px; }
.mixture-of-contexts-time textarea { flex: 1 1 38px; min-height: 38px; width: 100%; resize: none; padding: 3px 8px; }
`

/** Puts the style on the page, once. */
export function addStyle() {
  if (document.getElementById("mixture-of-contexts-time-style")) return
  const style = document.createElement("style")
  style.id = "mixture-of-contexts-time-style"
  style.textContent = CSS
  document.head.append(style)
}

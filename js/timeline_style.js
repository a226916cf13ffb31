// @ts-check
// How the timeline looks. Colours of the page's theme where it has them; what lies on the shots' own colours brings its own.

const CSS = `
.moc-time { --line: var(--border-color, #4e4e4e); --ink: var(--input-text, #ddd); --soft: var(--descrip-text, #aaa);
  --field: var(--comfy-input-bg, #222); --ring: #7fb3ff; --cut: #ffd479;
  display: flex; flex-direction: column; gap: 6px; height: 100%; width: 100%; box-sizing: border-box; padding: 4px 2px;
  font: 12px/1.35 system-ui, sans-serif; color: var(--ink); }
.moc-time * { box-sizing: border-box; }
.moc-time [hidden] { display: none !important; }
.moc-time .bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.moc-time :is(input, textarea, .bar button) { font: inherit; color: var(--ink); background: var(--field); border: 1px solid var(--line); border-radius: 6px; padding: 3px 8px; }
.moc-time .bar button { cursor: pointer; }
.moc-time .bar button:hover:enabled { border-color: var(--ink); }
.moc-time :disabled { opacity: 0.5; }
.moc-time .bar input { width: 74px; margin-left: 6px; }
.moc-time :is(input, textarea, button):focus-visible { outline: 2px solid var(--ring); outline-offset: 1px; }
.moc-time ::placeholder { color: var(--soft); opacity: 1; }
.moc-time [aria-invalid=true] { border-color: #ff8f8f; }
.moc-time .track { position: relative; flex: 0 0 62px; margin: 0 8px; border-radius: 6px; background: #15171c; cursor: copy; user-select: none; touch-action: none; }
.moc-time .track.fixed { cursor: default; }
.moc-time .shot { position: absolute; top: 0; bottom: 14px; overflow: hidden; padding: 4px 2px 4px 12px; background: #2b4a6f; color: #fff; pointer-events: none; container-type: inline-size; }
.moc-time .shot.odd { background: #3f3f74; }
.moc-time .shot.open { border-right: 3px dotted #c4c9d4; }
.moc-time .shot :is(b, span) { display: block; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.moc-time .shot span { color: #d5dbe8; font-size: 11px; }
@container (max-width: 40px) { .moc-time .shot span { display: none; } .moc-time .shot b { text-overflow: clip; } }
.moc-time .track svg { position: absolute; left: 0; bottom: 0; width: 100%; height: 14px; overflow: visible; pointer-events: none; }
.moc-time .track path { stroke: #878f9f; stroke-width: 1; vector-effect: non-scaling-stroke; }
.moc-time .track path.found { stroke: #5ec962; stroke-width: 3; }
.moc-time .typed { position: absolute; top: 0; bottom: 0; width: 0; border-left: 2px dashed #ff9d5c; pointer-events: none; }
.moc-time .cut { position: absolute; top: -3px; bottom: -3px; width: 17px; margin-left: -8.5px; padding: 0; border: 0; background: none; cursor: ew-resize; touch-action: none; }
.moc-time .cut::before { content: ""; position: absolute; inset: 0 7px; border-radius: 2px; background: var(--cut); }
.moc-time .cut::after { content: ""; position: absolute; left: 2px; right: 2px; top: 18px; height: 14px; border-radius: 4px; background: var(--cut); }
.moc-time .cut:focus-visible { outline-offset: -1px; border-radius: 4px; }
.moc-time .cut:focus-visible::before, .moc-time .cut.held::before { background: #fff; }
.moc-time .cut[aria-disabled=true] { cursor: default; --cut: #9aa1af; }
.moc-time .ruler { display: flex; justify-content: space-between; margin: -4px 8px 0; color: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.moc-time output { display: block; min-height: 2.7em; }
.moc-time output.problem::before { content: "⚠ "; }
.moc-time .words { flex: 1 1 150px; min-height: 130px; display: flex; flex-direction: column; gap: 6px; margin: 0 8px; color: var(--soft); }
.moc-time .all { flex: 0 0 38px; display: flex; gap: 8px; align-items: center; white-space: nowrap; }
.moc-time .cards { flex: 1 1 86px; display: flex; gap: 6px; margin: 0; padding: 0 0 4px; list-style: none; overflow-x: auto; }
.moc-time .cards li { flex: 1 1 112px; min-width: 112px; display: flex; flex-direction: column; gap: 4px; }
.moc-time .cards label { display: flex; gap: 6px; align-items: center; }
.moc-time .cards input { flex: 1 1 40px; min-width: 0; padding: 1px 6px; }
.moc-time textarea { flex: 1 1 38px; min-height: 38px; width: 100%; resize: none; padding: 3px 8px; }
`

/** Puts the style on the page, once. */
export function addStyle() {
  if (document.getElementById("moc-time-style")) return
  const style = document.createElement("style")
  style.id = "moc-time-style"
  style.textContent = CSS
  document.head.append(style)
}

// The widgets of MoC Shots as a film on the timeline, and what every change on the timeline writes into them.

import assert from "node:assert/strict"
import { test } from "node:test"
import { fit, readFilm } from "../../js/timeline/film.js"
import { addCut, cleanName, limits, moveCut, place, removeCut, setLength, step, takeShots, toWidgets } from "../../js/timeline/edit.js"
import { table } from "./tables.mjs"

const RULES = Object.fromEntries(Object.entries(table("snapping")).map(([name, row]) => [name, row.rule]))
const EMPTY = { how: "cuts", times: "", unit: "frames", fps: 16, shot_count: 3, prompt: "", length: 0, family: "Wan" }
const KNOWN = { rules: RULES, linked: [], ran: null, detected: null }
const film = (widgets, known = {}) => readFilm({ ...EMPTY, ...widgets }, { ...KNOWN, ...known })
const changes = (widgets, edit, known = {}) => {
  const before = film(widgets, known)
  return toWidgets({ ...EMPTY, ...widgets }, before, edit(before), { ...KNOWN, ...known })
}

for (const { widgets, borders, length, error } of table("films")) {
  test(`${JSON.stringify(widgets)} is ${error ? "refused" : "shown"} as the node does`, () => {
    const read = readFilm({ ...EMPTY, family: "any model", ...widgets }, KNOWN)
    if (error) return assert.notEqual(read.problem, "")
    assert.deepEqual([read.problem, read.length], ["", length])
    if (borders) assert.deepEqual(read.borders, borders)
  })
}

test("a duration that is changed settles what contradicts the length", () => {
  const before = { how: "durations", times: "29, 28", length: 81 }
  assert.match(film(before).problem, /last 57 frames together, but length is 81/)
  assert.deepEqual(changes(before, (one) => moveCut(one, 0, 33)), { times: "33, 24", length: 57 })
})

test("cuts are drawn where they were typed, with the border the model will cut at", () => {
  const { cuts, borders, length, shown, problem } = film({ times: "30, 57" })
  assert.deepEqual({ cuts, borders, length, shown, problem }, { cuts: [30, 57], borders: [29, 57], length: null, shown: 81, problem: "" })
})

test("a cut nearest to the end of the film goes to the last border before it", () => {
  assert.deepEqual(film({ times: "80", length: 81 }).borders, [77])
  assert.deepEqual(film({ times: "80" }).borders, [81])
})

test("without a family every frame is a border", () => {
  const { borders, snaps } = film({ times: "30, 31", family: "any model" })
  assert.deepEqual({ borders, snaps }, { borders: [30, 31], snaps: false })
})

test("durations are drawn as cuts and say how long the film is", () => {
  const { cuts, length } = film({ how: "durations", times: "29, 28, 24" })
  assert.deepEqual({ cuts, length }, { cuts: [29, 57], length: 81 })
})

test("equal shots are equal in latent frames", () => {
  assert.deepEqual(film({ how: "equal shots", length: 81 }).cuts, [25, 53])
})

test("a prompt's shots are equal unless its marks or times hold durations", () => {
  const prompt = "[shot 1: 29f] a [shot 2: 28f] b [shot 3] c"
  assert.deepEqual(film({ how: "prompt", prompt }).cuts, [29, 57])
  assert.deepEqual(film({ how: "prompt", prompt: "a [cut] b [cut] c", length: 81 }).cuts, [25, 53])
  assert.deepEqual(film({ how: "prompt", prompt: "a [cut] b", times: "2s 3s" }).cuts, [32])
})

for (const [what, widgets, sentence] of [
  ["no number", { times: "29, x" }, /“x” is not a number/],
  ["cuts out of order", { times: "57, 29" }, /put the cuts in order/],
  ["a cut at 0", { times: "0, 29" }, /cuts start at frame 1/],
  ["a cut behind the end", { times: "29, 90", length: 81 }, /ends at frame 81/],
  ["cuts closer than a latent frame", { times: "29, 30" }, /Shot 2 is too short for this model/],
  ["no durations", { how: "durations" }, /No durations given/],
  ["texts for another number of shots", { times: "29", prompt: "a [cut] b [cut] c" }, /3 shot texts for 2 shots/],
  ["an empty prompt", { how: "prompt" }, /prompt is empty/],
  ["durations where cuts are asked for", { prompt: "[shot 1: 2s] a [cut] b", times: "29" }, /set how to prompt/],
  ["too many equal shots", { how: "equal shots", shot_count: 30, length: 81 }, /30 shots do not fit into 21 latent frames/],
]) {
  test(`${what}: the timeline says what is wrong`, () => assert.match(film(widgets).problem, sentence))
}

test("a dragged cut snaps to a border and leaves every shot a latent frame", () => {
  const before = film({ times: "29, 57", length: 81 })
  assert.equal(place(before, 0, 40.4), 41)
  assert.equal(place(before, 0, 500), 53)
  assert.equal(place(before, 0, -3), 1)
  assert.equal(place(before, 1, 500), 77)
  assert.deepEqual(limits(before, 0), [1, 53])
})

test("a step leads to the next border, also from between two", () => {
  const before = film({ times: "30" })
  assert.deepEqual([step(before, 0, 1), step(before, 0, -1), step(before, 0, -100)], [33, 29, 1])
})

test("the first frames of a family with a rule of its own are borders too", () => {
  const before = film({ times: "17", family: "MiniMax H3" })
  assert.deepEqual([step(before, 0, 1), step(before, 0, -1)], [18, 13])
})

test("a moved cut is written as a cut, a duration, or a mark, whichever was there", () => {
  const move = (before) => moveCut(before, 0, 33)
  assert.deepEqual(changes({ times: "29, 57" }, move), { times: "33, 57" })
  assert.deepEqual(changes({ times: "29", unit: "seconds", fps: 1 }, move), { times: "33" })
  assert.deepEqual(changes({ times: "1.8s, 3.5s" }, move), { times: "2.06s, 3.5s" })
  assert.deepEqual(changes({ how: "durations", times: "29, 28, 24" }, move), { times: "33, 24, 24" })
  assert.deepEqual(changes({ how: "equal shots", length: 81 }, move), { how: "cuts", times: "33, 53" })
  assert.deepEqual(changes({ how: "prompt", prompt: "[shot 1: 29f] a [shot 2] b" }, move), { prompt: "[shot 1: 33f] a\n[shot 2] b" })
  assert.deepEqual(changes({ how: "prompt", prompt: "a [cut] b" }, move), { prompt: "[shot 1: 33f] a\n[shot 2] b" })
  assert.deepEqual(changes({ how: "prompt", prompt: "a | b", times: "29 52" }, move), { times: "33, 48" })
})

test("what nobody moved keeps its place, on a border or not", () => {
  assert.deepEqual(changes({ times: "30, 57" }, (before) => moveCut(before, 1, 61)), { times: "30, 61" })
})

test("a new cut goes to the nearest free border and splits a shot", () => {
  const { draft, index } = addCut(film({ times: "29", prompt: "[shot 1] a [shot 2] b" }), 55)
  assert.deepEqual([draft.cuts, draft.texts, index], [[29, 53], ["a", "b", ""], 1])
  assert.deepEqual(changes({}, (before) => addCut(before, 30).draft), { times: "29" })
  assert.equal(addCut(film({ times: "1", length: 5 }), 3), null)
})

test("the text of a film without shots stays everybody's when it gets some", () => {
  const before = film({ prompt: "a woman" })
  assert.deepEqual([before.common, before.texts], ["a woman", [""]])
  assert.deepEqual(changes({ prompt: "a woman" }, (one) => addCut(one, 30).draft), { times: "29" })
})

test("a cut that is taken away joins the texts", () => {
  const widgets = { times: "29, 57", prompt: '[shot 1 "door"] a [shot 2] b [shot 3] c' }
  assert.deepEqual(changes(widgets, (before) => removeCut(before, 0)), { times: "57", prompt: '[shot 1 "door"] a b\n[shot 2] c' })
})

test("the last cut of a timed prompt can go", () => {
  const out = changes({ how: "prompt", prompt: "[shot 1: 29f] a [shot 2: 52f] b" }, (before) => removeCut(before, 0))
  assert.deepEqual(out, { prompt: "[shot 1: 81f] a b" })
})

test("names and texts are written as marks", () => {
  const named = (before) => ({ ...before, names: ["", "the door"] })
  assert.deepEqual(changes({ times: "29", prompt: "a woman" }, named), { prompt: '[global] a woman\n[shot 1]\n[shot 2 "the door"]' })
  const texts = (before) => ({ ...before, texts: ["walks", "runs "] })
  assert.deepEqual(changes({ times: "29" }, texts), { prompt: "[shot 1] walks\n[shot 2] runs" })
  assert.equal(cleanName(' the "red"\n[door] '), "the red door")
})

test("a text that would become shots of its own is refused", () => {
  const edit = (before) => ({ ...before, texts: ["a [shot cut] b", ""] })
  assert.throws(() => changes({ times: "29" }, edit), /make shots of their own/)
})

test("a length is one that the model can make and holds the last shot", () => {
  assert.equal(setLength(film({ times: "29" }), 80).length, 81)
  assert.equal(setLength(film({ times: "29" }), 3).length, 33)
  assert.equal(setLength(film({ times: "29" }), 0).length, null)
  assert.deepEqual(changes({ times: "29" }, (before) => setLength(before, 80)), { length: 81 })
  assert.deepEqual(changes({ how: "durations", times: "29, 28" }, (before) => setLength(before, 81)), { times: "29, 52" })
})

test("detected shots are shown, and become cuts when they are changed", () => {
  const detected = { cuts: [29, 57], even: 0, length: 81, texts: [], common: "", names: [] }
  assert.deepEqual(film({ how: "detected" }, { detected }).cuts, [29, 57])
  assert.match(film({ how: "detected" }).problem, /run once/)
  const out = changes({ how: "detected" }, (before) => moveCut(before, 0, 33), { detected })
  assert.deepEqual(out, { how: "cuts", times: "33, 57", length: 81 })
  const taken = changes({ times: "5", prompt: "[shot 1] a [shot 2] b" }, (before) => takeShots(before, detected))
  assert.deepEqual(taken, { times: "29, 57", length: 81, prompt: "[shot 1] a\n[shot 2] b\n[shot 3]" })
})

test("an input that comes from another node cannot be edited; the last run tells what it held", () => {
  const ran = { cuts: [41], even: 0, length: null, texts: [], common: "", names: [] }
  assert.match(film({}, { linked: ["times"] }).problem, /times comes from another node: run once/)
  const seen = film({}, { linked: ["times"], ran })
  assert.deepEqual([seen.cuts, seen.canCut, seen.canWrite], [[41], false, true])
  assert.equal(film({}, { linked: ["prompt"] }).canWrite, false)
})

test("texts are fitted to the shots without losing one", () => {
  assert.deepEqual(fit(["a", "b", "c"], 2), ["a", "b\nc"])
  assert.deepEqual(fit(["a"], 3), ["a", "", ""])
})

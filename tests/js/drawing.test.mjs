// What a routing map looks like: the same answers as nodes/render/heatmap.py and flow.py.

import assert from "node:assert/strict"
import { test } from "node:test"
import { legend } from "../../js/heatmap/canvas.js"
import { colour, links, percent, runs, scaleTop } from "../../js/heatmap/data.js"
import { arcs } from "../../js/heatmap/flow.js"
import { table } from "./tables.mjs"

const { colours, scale_tops: tops, percents, runs: labels, arcs: sets, flows, legends } = table("drawing")
const near = (found, wanted) => assert.ok(Math.abs(found - wanted) < 1e-9, `${found} is not ${wanted}`)

test("a share has the colour of the table", () => {
  for (const { value, rgb } of colours) assert.equal(colour(value), `rgb(${rgb.join(" ")})`)
})

test("colours end where the table says", () => {
  for (const { values, top } of tops) near(scaleTop([values], 1), top)
})

test("a share is written as in the table", () => {
  for (const { share, number } of percents) assert.equal(percent(share), `${number} %`)
})

test("lines under one label are those of the table", () => {
  for (const { runs: wanted, ...lines } of labels) assert.deepEqual(runs(lines).map(({ from, to }) => [from, to]), wanted)
})

test("arcs lie as in the table", () => {
  for (const { links, centres, room, arcs: wanted } of sets) {
    const found = arcs(links.map(([reader, read, share, bank = false]) => ({ reader, read, share, bank })), centres, room)
    found.forEach(({ reader, read, share, begin, end }, i) => {
      assert.deepEqual([reader, read, share], wanted[i].slice(0, 3))
      near(begin, wanted[i][3])
      near(end, wanted[i][4])
    })
    assert.equal(found.length, wanted.length)
  }
})

test("the legend tells the greys of the table", () => {
  for (const { open, always, closed, apart } of legends) {
    const told = legend({ open, always, share: open.map((row) => row.map((part) => (part > 0 ? 0.5 : -1))) }).map(({ swatch }) => swatch)
    assert.deepEqual([told.includes("closed"), told.includes("apart")], [closed, apart])
  }
})

test("what reads what is that of the table", () => {
  for (const { shots, bank, names, found: wanted } of flows) {
    const [map, kept] = [shots, bank].map((one) => one && { ...one, parts: 1 })
    const { names: told, found } = links(map, kept)
    assert.deepEqual(told, names)
    assert.deepEqual(found.map(({ reader, read, share, bank }) => [reader, read, share, bank]), wanted)
  }
})

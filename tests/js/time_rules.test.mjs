// Where a model family can cut: the same answers as moc/shots/time_rules.py.

import assert from "node:assert/strict"
import { test } from "node:test"
import { frames, latentFrames, latentOf, lengthsName, nearest, whole } from "../../js/timeline/time_rules.js"
import { table } from "./tables.mjs"

for (const [family, { rule, name, borders, cuts_1_to_60: cuts, lengths_1_to_60: lengths }] of Object.entries(table("snapping"))) {
  test(`${family} packs frames by its own rule`, () => {
    borders.forEach((border, latent) => {
      assert.equal(frames(rule, latent), border)
      assert.equal(latentOf(rule, border), latent)
      assert.equal(latentFrames(rule, border), latent)
      assert.equal(latentFrames(rule, border + 1), latent + 1)
    })
    assert.equal(lengthsName(rule), name)
  })
  test(`${family} moves a cut to its nearest border, never to 0`, () => {
    cuts.forEach((border, i) => assert.deepEqual(nearest(rule, i + 1), [borders.indexOf(border), border], `cut ${i + 1}`))
  })
  test(`${family} makes films of whole latent frames`, () => {
    lengths.forEach((pair, i) => assert.deepEqual(whole(rule, i + 1), pair, `${i + 1} frames`))
  })
}

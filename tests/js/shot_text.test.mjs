// What people type for shots: the same meaning as in moc/shots/cuts.py and moc/shots/prompts.py, and a way back.

import assert from "node:assert/strict"
import { test } from "node:test"
import { readPrompt, writePrompt } from "../../js/timeline/prompts.js"
import { readTimes, seconds, writeTimes } from "../../js/timeline/times.js"
import { table } from "./tables.mjs"

for (const { text, unit, fps, frames, error } of table("times")) {
  test(`${JSON.stringify(text)} in ${unit} at ${fps} fps is ${error ? "an error" : `[${frames}]`}`, () => {
    if (error) assert.throws(() => readTimes(text, unit, fps))
    else assert.deepEqual(readTimes(text, unit, fps).map((time) => time.frames), frames)
  })
}

for (const { prompt, says, written, error } of table("prompts")) {
  test(`${JSON.stringify(prompt)} ${error ? "is an error" : "says the same as in Python"}`, () => {
    if (error) return assert.throws(() => readPrompt(prompt))
    assert.deepEqual(readPrompt(prompt), says)
    assert.equal(writePrompt(says), written)
  })
}

test("seconds are written as short as they can be and are read back as the same frame", () => {
  assert.equal(seconds(29, 16), "1.8")
  assert.equal(seconds(48, 16), "3")
  assert.equal(seconds(80, 16), "5")
  for (const fps of [1, 8, 16, 23.976, 24, 25, 29.97, 60]) {
    for (let frame = 1; frame < 2000; frame++) assert.equal(readTimes(seconds(frame, fps), "seconds", fps)[0].frames, frame)
  }
})

test("a time that did not change keeps its wording", () => {
  assert.equal(writeTimes([29, 61], "29f, 57f", "seconds", 16), "29f, 61f")
  assert.equal(writeTimes([32, 57], "2s\n57", "frames", 16), "2s\n57")
  assert.equal(writeTimes([29, 61], "", "seconds", 16), "1.8, 3.8")
  assert.equal(writeTimes([], "29", "frames", 16), "")
})

test("a prompt of a book's length is read piece by piece", () => {
  const many = 300_000 // squared it would take minutes
  for (const head of ["[", "[shot ", "[shot 1: "]) {
    for (const piece of ["1", " ", '""']) assert.equal(readPrompt(head + piece.repeat(many)).texts.length, 1)
  }
  assert.equal(readPrompt(`[shot 1 ${'""'.repeat(many)}] a`).texts[0], "a")
  assert.equal(readPrompt("a|".repeat(many)).texts.length, many + 1)
})

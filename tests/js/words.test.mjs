// What the pack says in another language.

import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import { test } from "node:test"
import { say, sayChoice, sayReport, speak } from "../../js/lib/words.js"

const table = (language) => JSON.parse(readFileSync(new URL(`../../locales/${language}/main.json`, import.meta.url), "utf-8")).mixture_of_contexts

test("without a language everything is said in English", () => {
  speak(() => ({}))
  assert.equal(say("Cut {cut}: {place}.", { cut: 2, place: "frame 29" }), "Cut 2: frame 29.")
  assert.equal(sayChoice("equal shots"), "equal shots")
  assert.equal(sayReport("MoC: everything ran dense."), "MoC: everything ran dense.")
})

test("a word that a language lacks stays English", () => {
  speak(() => ({ words: {}, choices: {} }))
  assert.equal(say("1 shot."), "1 shot.")
  assert.equal(sayChoice("cuts"), "cuts")
})

test("values stand where the language wants them", () => {
  speak(() => table("zh"))
  assert.equal(say("Step {step} of {steps}.", { step: 3, steps: 20 }), "第 3 步，共 20 步。")
  assert.equal(sayChoice("equal shots"), "等长镜头")
})

test("what the server reports is said sentence by sentence, phrases inside it too", () => {
  speak(() => table("zh"))
  const told = sayReport("MoC on: 6 of 8 blocks routed, 30.0% of pairs kept. Dense calls (short, dense is as fast: 3, attention mask: 1).")
  assert.equal(told, "MoC 已开启：8 个模块中 6 个走路由，保留 30.0% 的 token 对。 使用全注意力的计算（序列短，全注意力同样快: 3, 注意力掩码: 1）。")
  assert.equal(sayReport("3 dense: out of memory while routing.\nNote: something new."), "3 次使用全注意力：路由时显存不足。\nNote: something new.")
})

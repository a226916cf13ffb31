// The page belongs to everybody: what the pack puts on it is called after the pack.

import assert from "node:assert/strict"
import { readdirSync, readFileSync } from "node:fs"
import { test } from "node:test"

const folder = new URL("../../js/", import.meta.url)
const sources = readdirSync(folder, { recursive: true })
  .filter((name) => String(name).endsWith(".js"))
  .map((name) => readFileSync(new URL(String(name), folder), "utf-8"))
const found = (pattern) => sources.flatMap((source) => [...source.matchAll(pattern)].map(([, name]) => name))

test("extensions carry the pack's name", () => {
  const names = found(/registerExtension\(\{\s*name: "([^"]+)"/g)
  assert.equal(names.length, found(/(registerExtension)\(/g).length)
  for (const name of names) assert.match(name, /^mixture_of_contexts\.[a-z]+$/)
})

test("styles hold only for the pack's own elements", () => {
  const css = found(/const CSS = `([^`]*)`/g).join("\n").replace(/@keyframes[^}]*\}\s*\}/g, "")
  const selectors = [...css.matchAll(/([^{}]+)\{[^{}]*\}/g)].flatMap(([, list]) => list.split(/,(?![^(]*\))/))
  assert.ok(selectors.length > 50)
  for (const selector of selectors) assert.match(selector.trim(), /^\.mixture-of-contexts-(heat|time|report)\b/)
})

test("ids, animations and what outlives the page carry the pack's name", () => {
  const names = [...found(/\.id = "([^"]+)"/g), ...found(/@keyframes (\S+)/g), ...found(/=> `([^` ]+) \$\{node\.graph/g), ...found(/return `([^`$]+)\$\{Math\.random/g)]
  assert.equal(names.length, 5)
  for (const name of names) assert.match(name, /^mixture-of-contexts-/)
})

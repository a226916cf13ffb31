// @ts-check
// What is shown, as files.

import { FAINT, INK, PAPER } from "./data.js"
import { make } from "./style.js"
import { say } from "../lib/words.js"

const WIDTH = 900
const HEIGHT = 760
const SCALE = 2

/** A picture with a title and a line of what it shows. */
export function savePng(/** @type {(pen: CanvasRenderingContext2D, width: number, height: number) => void} */ draw, /** @type {string} */ shown) {
  const canvas = make("canvas", { width: WIDTH * SCALE, height: HEIGHT * SCALE })
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"))
  pen.scale(SCALE, SCALE)
  pen.fillStyle = PAPER
  pen.fillRect(0, 0, WIDTH, HEIGHT)
  pen.save()
  pen.translate(12, 56)
  draw(pen, WIDTH - 24, HEIGHT - 96)
  pen.restore()
  pen.textBaseline = "alphabetic"
  pen.textAlign = "left"
  pen.fillStyle = INK
  pen.font = "600 20px system-ui, sans-serif"
  pen.fillText(say("Who reads whom"), 20, 36)
  pen.fillStyle = FAINT
  pen.font = "13px system-ui, sans-serif"
  pen.fillText(`Mixture of Contexts: ${shown}`, 20, HEIGHT - 16)
  canvas.toBlob((blob) => blob && save(blob, "moc_routing.png"))
}

export function save(/** @type {Blob} */ blob, /** @type {string} */ name) {
  const url = URL.createObjectURL(blob)
  download(url, name)
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}

export function download(/** @type {string} */ url, /** @type {string} */ name) {
  make("a", { href: url, download: name }).click()
}

// @ts-check
// How a model family packs frames of the film into latent frames; the rules themselves come from moc/shots/time_rules.py.

/** @typedef {{first: number[], repeat: number[], lengths: [number, number]}} TimeRule see moc/shots/time_rules.py */

const sum = (/** @type {number[]} */ list) => list.reduce((a, b) => a + b, 0)

/** @type {TimeRule} */
export const EVERY_FRAME = { first: [1], repeat: [1], lengths: [1, 0] }

/** Frames of the film that the first `latents` latent frames hold; also the frame that latent frame `latents` starts at. */
export function frames(/** @type {TimeRule} */ rule, /** @type {number} */ latents) {
  const head = rule.first.slice(0, latents)
  const behind = Math.max(latents - rule.first.length, 0)
  const rounds = Math.floor(behind / rule.repeat.length)
  return sum(head) + rounds * sum(rule.repeat) + sum(rule.repeat.slice(0, behind % rule.repeat.length))
}

/** The latent frame that holds a frame of the film. */
export function latentOf(/** @type {TimeRule} */ rule, /** @type {number} */ frame) {
  const round = sum(rule.repeat)
  const begin = sum(rule.first)
  const skipped = frame < begin ? 0 : Math.floor((frame - begin) / round)
  let latent = frame < begin ? 0 : rule.first.length + skipped * rule.repeat.length
  while (frames(rule, latent + 1) <= frame) latent++
  return latent
}

/** Latent frames that hold all of so many frames of the film, the last one perhaps not full. */
export function latentFrames(/** @type {TimeRule} */ rule, /** @type {number} */ count) {
  return count <= 0 ? 0 : latentOf(rule, count - 1) + 1
}

/** [latent frame, its first frame of the film] of the border nearest to a cut; ties move back, never to 0. */
export function nearest(/** @type {TimeRule} */ rule, /** @type {number} */ cut) {
  const latent = Math.max(latentOf(rule, cut), 1)
  const [start, stop] = [frames(rule, latent), frames(rule, latent + 1)]
  return cut - start <= stop - cut ? [latent, start] : [latent + 1, stop]
}

/** The nearest film lengths that leave no frame over: [at most `count`, at least `count`]. */
export function whole(/** @type {TimeRule} */ { lengths: [step, rest] }, /** @type {number} */ count) {
  const below = Math.max(Math.floor((count - rest) / step), 0) * step + rest
  return [below, below >= count ? below : below + step]
}

/** The film lengths of a family as they are written: 4n+1. */
export function lengthsName(/** @type {TimeRule} */ { lengths: [step, rest] }) {
  return rest ? `${step}n+${rest}` : `${step}n`
}

// @ts-check
// What people type, read alike here and by the nodes (moc/typed.py).

/** A class for a pattern: ASCII, full-width, Arabic, Persian, Devanagari, Bengali and Thai digits. */
export const DIGITS = "0-9０-９٠-٩۰-۹०-९০-৯๐-๙"
const ZEROS = [..."0٠۰०০๐０"].map((zero) => zero.charCodeAt(0)).reverse()
const OTHERS = new RegExp(`(?![0-9])[${DIGITS}]`, "g")
export const MOST_FRAMES = 1_000_000

/** The value of digits in any of the scripts, with a sign and a point. */
export function toNumber(/** @type {string} */ text) {
  const value = (/** @type {number} */ code) => String(code - (ZEROS.find((zero) => zero <= code) ?? code))
  return Number(text.replace(OTHERS, (digit) => value(digit.charCodeAt(0))))
}

/** For a message: text, shortened where it is long. */
export const shown = (/** @type {string} */ text) => (text.length <= 60 ? text : `${text.slice(0, 57)}...`)

// @ts-check
// The frames that one row reads, drawn over small pictures of them where the decoded frames are known.

import { capital, colour, nameOf, percent, reads, scaleTop } from "./data.js"
import { make } from "./style.js"
import { say } from "../lib/words.js"

/** @typedef {{frames: number[], across: number, width: number, height: number, url: string}} Sheet */

const PLAIN = { width: 66, height: 34 } // of a frame without a picture

/**
 * @param {import("./data.js").RoutingMap} map @param {number} row @param {string} show @param {Sheet | null} sheet
 * @returns {{title: string, items: HTMLLIElement[]}}
 */
export function strip(map, row, show, sheet) {
  const read = reads(map, row, show)
  const top = scaleTop([read.map((one) => one.value)], 1)
  const items = read.map(({ frame, shot, value, always, open }) => {
    const own = map.rows.kind[row] === "video" && (map.view === "shots" ? shot === map.rows.shot[row] : frame === map.rows.frame[row])
    const said = value >= 0 && !(always >= 0.9999) ? percent(value) : always > 0 ? say("always") : open > 0 ? percent(0) : "–"
    const name = map.view === "shots" ? say("shot {shot}", { shot: shot + 1 }) : String(frame)
    const item = make("li", { className: own ? "self" : "", title: `${say("shot {shot}, frame {frame}", { shot: shot + 1, frame })}: ${said}` })
    const place = sheet ? sheet.frames.indexOf(frame) : -1
    item.style.cssText = size(sheet)
    if (sheet && place >= 0) {
      const [x, y] = [place % sheet.across, Math.floor(place / sheet.across)]
      item.style.backgroundImage = `url("${sheet.url}")`
      item.style.backgroundPosition = `-${x * sheet.width}px -${y * sheet.height}px`
    }
    const part = value >= 0 ? value / top : 0
    const over = make("div", { className: "over" })
    // what is read shows clear in a frame of its colour, what is not read lies in the dark
    over.style.background = `rgb(10 11 14 / ${always >= 0.9999 ? 0.1 : 0.82 - 0.77 * part})`
    over.style.boxShadow = part > 0 ? `inset 0 0 0 3px ${colour(part)}` : ""
    item.append(over, make("div", { className: "say" }, make("span", {}, name), make("span", {}, said)))
    return item
  })
  const name = nameOf(map.rows, row, map.view)
  return { title: capital(say("{reader} reads", { reader: name })), items }
}

function size(/** @type {Sheet | null} */ sheet) {
  const { width, height } = sheet ?? PLAIN
  return `width: ${width}px; height: ${height}px;`
}
